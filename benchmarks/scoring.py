"""Scoring choices and writing answers against lm-evaluation-harness with its Hugging Face backend.

    pip install lm-eval==0.4.13           # the peer; in an environment of its own if you like, with crosstune

Both sides get the same prompts and choices as texts and tokenise them in the time that is measured; same
weights, dtype and threads. The peer batches as it does: sorted by length, one forward for choices of one
token behind the same prompt. Its batch size is the fastest of some, tried on a part of the work before
anything is timed. Examples are those of whole passages, as the full test sets have them.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from transformers import AutoModelForCausalLM, AutoTokenizer

from crosstune.evaluation.choices import ChoiceItem, score_choices
from crosstune.evaluation.generation import generate
from crosstune.evaluation.settings import EvaluateSettings
from crosstune.evaluation.trees import grow
from crosstune.models.load import load
from crosstune.tasks import make_task
from crosstune.tasks.base import Example
from harness import Agreement, Block, Cost, Row, Setting, Work
from machine import synchronise

# The least agreement: in bf16 two sides round differently, and near ties fall either way.
LEAST = {"torch.float32": 0.99, "torch.bfloat16": 0.9}
BATCHES = (1, 4, 16)

Grow = Literal["examples", "choices", "answers"]


@dataclass(frozen=True)
class Case:
    """What is asked.

    Attributes:
        task: Of crosstune; its test split is used.
        options: Of the task.
        languages: So many examples each.
        examples: A language; of tasks with passages, all questions of so many passages.
        passage: Field of an example that questions share; None where there is none.
        longest: Answer, in tokens.
        stop: Whether a line break ends an answer; without, every answer is ``longest`` tokens.
        grow: What the sizes of a row count; None for one size.
    """

    task: str
    options: dict[str, Any] = field(default_factory=dict)
    languages: tuple[str, ...] = ("en", "de", "sw", "th")
    examples: int = 24
    passage: str | None = None
    longest: int = 32
    stop: bool = True
    grow: Grow | None = None


def prepare(case: Case, setting: Setting, folder: Path) -> None:
    """Write the model, the examples and what they are in tokens."""
    lm = load(setting.model, device=setting.device, dtype=setting.dtype)
    lm.model.save_pretrained(folder / "model")
    lm.tokenizer.save_pretrained(folder / "model")
    task = make_task(case.task, case.options)
    chosen = [e for code in case.languages for e in some(case, task.examples("test", code))]
    rows = [
        {"language": e.language, "prompt": e.prompt, "choices": e.choices, "gold": e.answers} for e in chosen
    ]
    (folder / "examples.json").write_text(json.dumps(rows))
    (folder / "geometry.json").write_text(json.dumps(asdict(lm.geometry)))


def some(case: Case, examples: Sequence[Example]) -> list[Example]:
    """The first examples, or all questions of the first passages."""
    if case.passage is None:
        return list(examples[: case.examples])
    passages: dict[str, list[Example]] = {}
    for example in examples:
        passages.setdefault(dict(example.fields)[case.passage], []).append(example)
    return [example for group in list(passages.values())[: case.examples] for example in group]


def part(case: Case, rows: list[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    """The examples of a block of some size (0: all)."""
    if size == 0 or case.grow == "answers":
        return rows
    if case.grow == "choices":
        return [row | {"choices": row["choices"][:size]} for row in rows]
    return rows[:: max(1, len(rows) // size)][:size]


def read(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "examples.json").read_text())
    return found


def ours(case: Case, setting: Setting, folder: Path) -> Work:
    lm = load(str(folder / "model"), device=setting.device, dtype=setting.dtype)
    rows, settings = read(folder), EvaluateSettings()

    def work(size: int) -> Block:
        lm._prompts.clear()  # kept from the block before
        chosen = part(case, rows, size)
        longest = size if case.grow == "answers" else case.longest
        began = time.perf_counter()
        prompts = lm.encode_prompts([row["prompt"] for row in chosen])
        answers: Any
        if chosen[0]["choices"]:
            labels = [tuple(tuple(lm.encode_answer(choice)) for choice in row["choices"]) for row in chosen]
            items = [ChoiceItem(p, each) for p, each in zip(prompts, labels, strict=True)]
            answers = score_choices(lm, items, settings)
        else:
            answers = generate(lm, prompts, longest, ("\n",) if case.stop else (), settings.tokens_per_pass)
        synchronise(lm.device)
        return Block([time.perf_counter() - began], answers)

    return work


def theirs(case: Case, setting: Setting, folder: Path) -> Work:
    import logging

    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    logging.disable(logging.WARNING)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=setting.torch_dtype)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    bos = tokenizer.bos_token_id
    begins = bos is not None and tokenizer("a")["input_ids"][0] == bos
    device = setting.torch_device
    harness = HFLM(
        pretrained=model.to(device),
        tokenizer=tokenizer,
        device=str(device),
        batch_size=1,
        add_bos_token=begins,
    )
    rows = read(folder)

    def answer(chosen: list[dict[str, Any]], longest: int) -> Any:
        if not chosen[0]["choices"]:
            how = {"until": ["\n"] if case.stop else [], "max_gen_toks": longest, "do_sample": False}
            asked = [Instance("generate_until", row, (row["prompt"], how), i) for i, row in enumerate(chosen)]
            return [text.strip() for text in harness.generate_until(asked, disable_tqdm=True)]
        asked = [
            Instance("loglikelihood", row, (row["prompt"], f" {choice}"), i)
            for row in chosen
            for i, choice in enumerate(row["choices"])
        ]
        found = iter(harness.loglikelihood(asked, disable_tqdm=True))
        return [[next(found)[0] for _ in row["choices"]] for row in chosen]

    def timed(batch: int, chosen: list[dict[str, Any]]) -> float:
        harness.batch_size_per_gpu = batch
        began = time.perf_counter()
        answer(chosen, 8)
        return time.perf_counter() - began

    trial = rows[:: max(1, len(rows) // max(BATCHES))][: max(BATCHES)]
    answer(trial[:1], 2)
    harness.batch_size_per_gpu = min(BATCHES, key=lambda batch: timed(batch, trial))

    def work(size: int) -> Block:
        chosen = part(case, rows, size)
        began = time.perf_counter()
        answers = answer(chosen, size if case.grow == "answers" else case.longest)
        synchronise(device)
        return Block([time.perf_counter() - began], {"batch": harness.batch_size_per_gpu, "answers": answers})

    return work


def same(setting: Setting, mine: list[Any], other: dict[str, Any]) -> Agreement:
    """The choice picked, or the text written."""
    least = LEAST[str(setting.torch_dtype)]
    pairs = list(zip(mine, other["answers"], strict=True))
    if isinstance(mine[0], str):
        # The harness ends at a line break that opens an answer; crosstune skips it.
        pairs = [(a, b) for a, b in pairs if b or not a]
        equal = [a == b for a, b in pairs]
        apart: list[Any] = [pair for pair, alike in zip(pairs, equal, strict=True) if not alike]
        text = f"{sum(equal)} of {len(pairs)} answers the same"
        compared = len(pairs)
    else:
        picks = [
            (max(range(len(a)), key=a.__getitem__), max(range(len(b)), key=b.__getitem__)) for a, b in pairs
        ]
        equal = [a == b for a, b in picks]
        # How much better each side likes its own pick than the other's, where they differ.
        apart = [[a[x] - a[y], b[y] - b[x]] for (a, b), (x, y) in zip(pairs, picks, strict=True) if x != y]
        text = f"{sum(equal)} of {len(pairs)} choices the same; differing ones by " + (
            f"at most {max(max(each) for each in apart):.2f} nats" if apart else "nothing"
        )
        compared = len(pairs)
    share = sum(equal) / compared if compared else 0.0
    facts = {"share": share, "compared": compared, "apart": apart[:20], "batch_of_peer": other["batch"]}
    return Agreement(
        share >= least, f"{text} ({100 * least:g}% asked); the peer's batch {other['batch']}", facts
    )


def cost(case: Case, setting: Setting, folder: Path) -> Cost:
    """Products for every text token, shared beginnings once, and for answer rows the vocabulary."""
    lm = load(str(folder / "model"), device="cpu", dtype=setting.dtype)
    rows, g = read(folder), lm.geometry
    table = g.vocabulary * g.hidden
    body = g.parameters - table * (1 if g.tied else 2)
    prompts = lm.encode_prompts([row["prompt"] for row in rows])
    texts, answers = prompts, 0
    if rows[0]["choices"]:
        labels = [[lm.encode_answer(choice) for choice in row["choices"]] for row in rows]
        texts = [[*p, *label[:-1]] for p, each in zip(prompts, labels, strict=True) for label in each]
        answers = len(
            {(*p, *x[:n]) for p, e in zip(prompts, labels, strict=True) for x in e for n in range(1, len(x))}
        )
    else:
        answers = len(rows)  # one token each at the least
    tokens = len(grow(texts).tokens)
    facts = {
        "examples": len(rows),
        "tokens_read_once": tokens,
        "tokens_one_at_a_time": sum(map(len, texts)),
        "vocabulary_rows": answers,
    }
    return Cost(2 * body * tokens + 2 * table * answers, (body + table) * setting.torch_dtype.itemsize, facts)


def row(name: str, title: str, case: Case, **more: Any) -> Row:
    parts = {each.__name__: partial(each, case) for each in (prepare, ours, theirs, cost)}
    return Row(name=name, title=title, peer="lm-eval, hf backend", same=same, **parts, **more)


TEXTS: dict[str, Any] = {"task": "belebele", "options": {"answers": "texts"}, "passage": "passage"}
QUESTIONS: dict[str, Any] = {"task": "xquad", "passage": "context"}

ROWS = [
    row(
        "score-xnli",
        "scoring XNLI, labels of one token",
        Case("xnli", languages=("en", "de", "sw", "zh")),
        target=3.0,
    ),
    row("score-sib200", "scoring SIB-200, topics as labels", Case("sib200"), target=3.0),
    row(
        "score-belebele",
        "scoring Belebele, the answers' texts",
        Case(**TEXTS, examples=6, languages=("en", "de")),
        target=5.0,
    ),
    row(
        "slope-examples",
        "scoring SIB-200, seconds an example",
        Case("sib200", grow="examples"),
        sizes=(16, 48, 96),
        memory=False,
    ),
    row(
        "slope-choices",
        "scoring Belebele's answers' texts, seconds a choice of every question",
        Case(**TEXTS, examples=4, languages=("en",), grow="choices"),
        sizes=(2, 3, 4),
        memory=False,
    ),
    row(
        "slope-answers",
        "XQuAD answers without a stop, seconds a token of every answer",
        Case(**QUESTIONS, examples=4, languages=("en",), stop=False, grow="answers"),
        sizes=(4, 12, 24),
        memory=False,
    ),
]

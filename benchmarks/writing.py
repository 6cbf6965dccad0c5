"""Writing answers against lm-evaluation-harness, whose Hugging Face backend calls `generate`.

Both sides get the same prompts as texts and tokenise them in the time that is measured; same weights, dtype,
threads, stop strings and most tokens of an answer. The peer may hold as many texts at once as crosstune does
(the same memory for keys and values), and takes the fastest batch size up to that, tried before anything is
timed. Rows on XQuAD have all questions of each passage, as the full test set has them, and a model tuned on
English first where it says so (crosstune's LoRA, merged, saved as a plain folder): as users meet it, its
answers end.

In bf16 two sides round differently, and where two tokens are nearly level they part. Each such place is
proven a near tie (`near_ties`): the question is the text before it, the choices are both tokens and the
likeliest ones. One difference that is not proven fails the row.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import near_ties
from crosstune.data.example import Example
from crosstune.methods import METHODS
from crosstune.models.attention.trees import grow
from crosstune.models.language_model import LanguageModel
from crosstune.models.loading.load import load
from crosstune.outputs import generation
from crosstune.outputs.registry import OUTPUTS
from crosstune.outputs.rows import TrainingRow
from crosstune.outputs.settings import EvaluateSettings
from crosstune.tasks import make_task
from crosstune.training.loop import train
from crosstune.training.settings import TrainSettings
from harness import Agreement, Block, Cost, Row, Setting, Work
from machine import now, synchronise
from scoring import read, some


@dataclass(frozen=True)
class Case:
    """What is asked; fields as in `scoring.Case`.

    Attributes:
        stop: What ends an answer beside the end-of-text token.
        steps: Of tuning on four short English examples each; 0 for the model as it is.
    """

    task: str
    options: dict[str, Any] = field(default_factory=dict)
    languages: tuple[str, ...] = ("en", "th")
    examples: int = 4
    passage: str | None = None
    longest: int = 32
    stop: tuple[str, ...] = ("\n",)
    steps: int = 0


def prepare(case: Case, setting: Setting, folder: Path) -> None:
    """Write the model, tuned or not, and the examples."""
    lm = load(setting.model, device=setting.device, dtype=setting.dtype)
    task = make_task(case.task, case.options)
    if case.steps:
        rows = OUTPUTS["generation"](lm, EvaluateSettings()).rows(task.examples("train", "en")[:2000])
        tune(lm, [row for row in rows if len(row.ids) < 160], case.steps)
    lm.model.save_pretrained(folder / "model")
    lm.tokenizer.save_pretrained(folder / "model")
    chosen = [e for code in case.languages for e in some(case, task.examples("test", code))]
    (folder / "examples.json").write_text(json.dumps([asdict(e) for e in chosen]))


def tune(lm: LanguageModel, rows: list[TrainingRow], steps: int) -> None:
    """Train LoRA and leave its merged weights on the plain model."""
    method = METHODS["lora"](METHODS["lora"].Config())
    method.attach(lm, seed=0)
    train(method, rows, TrainSettings(steps=steps, batch_size=4, warmup_steps=3, learning_rate=3e-3), seed=0)
    with method.evaluating():
        merged = {
            name.replace(".base_layer", ""): weight.clone() for name, weight in lm.model.state_dict().items()
        }
    method.detach()
    lm.model.load_state_dict(merged, strict=False)


def at_once(case: Case, prompts: list[list[int]]) -> int:
    """How many texts crosstune holds at once."""
    longest = max(map(len, prompts)) + case.longest
    return min(len(prompts), generation.CACHED * EvaluateSettings().tokens_per_pass // longest)


@contextmanager
def kept() -> Iterator[dict[tuple[int, ...], list[int]]]:
    """Token ids of the answers written inside, by the ids of their prompts."""
    answers_of: dict[tuple[int, ...], list[int]] = {}
    write = generation._generate

    def keep(lm: Any, trees: Any, *more: Any) -> list[list[int]]:
        written = write(lm, trees, *more)
        paths = [tuple(tree.tokens[at] for at in path) for tree in trees for path in tree.paths]
        answers_of.update(zip(paths, written, strict=True))
        return written

    with patch.object(generation, "_generate", keep):
        yield answers_of


def ours(case: Case, setting: Setting, folder: Path) -> Work:
    lm = load(str(folder / "model"), device=setting.device, dtype=setting.dtype)
    rows, most = read(folder), EvaluateSettings().tokens_per_pass

    def work(size: int) -> Block:
        lm.tokens.forget()  # kept from the block before
        longest = size or case.longest
        with kept() as answers_of:
            began = now()
            prompts = lm.tokens.prompts([row["prompt"] for row in rows])
            generation.generate(lm, prompts, longest, case.stop, most)
            synchronise(lm.device)
            seconds = now() - began
        answers = [answers_of[tuple(prompt)] for prompt in prompts]
        (folder / "written.json").write_text(json.dumps([len(ids) for ids in answers]))
        return Block(
            [seconds], {"prompts": prompts, "answers": answers, "folder": str(folder), "longest": longest}
        )

    return work


def theirs(case: Case, setting: Setting, folder: Path) -> Work:
    import logging

    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    logging.disable(logging.WARNING)
    answers_of: dict[tuple[int, ...], list[int]] = {}

    class Kept(HFLM):  # type: ignore[misc]
        """Keeps the token ids of what it writes, by the ids of the prompts."""

        def _model_generate(self, context: Any, *args: Any, **kwargs: Any) -> Any:
            out = super()._model_generate(context, *args, **kwargs)
            masks, width = kwargs["attention_mask"].bool(), context.shape[1]
            for ids, mask, whole in zip(context, masks, out, strict=True):
                answers_of[tuple(ids[mask].tolist())] = whole[width:].tolist()
            return out

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=setting.torch_dtype)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    bos = tokenizer.bos_token_id
    begins = bos is not None and tokenizer("a")["input_ids"][0] == bos
    device = setting.torch_device
    harness = Kept(
        pretrained=model.to(device),
        tokenizer=tokenizer,
        device=str(device),
        batch_size=1,
        add_bos_token=begins,
    )
    rows = read(folder)
    prompts = tokenizer([row["prompt"] for row in rows])["input_ids"]

    def answer(chosen: list[dict[str, Any]], longest: int) -> None:
        how = {"until": list(case.stop), "max_gen_toks": longest, "do_sample": False}
        instances = [Instance("generate_until", row, (row["prompt"], how), i) for i, row in enumerate(chosen)]
        harness.generate_until(instances, disable_tqdm=True)

    def timed(batch: int, chosen: list[dict[str, Any]]) -> float:
        harness.batch_size_per_gpu = batch
        began = time.perf_counter()
        answer(chosen, 6)
        return time.perf_counter() - began

    most = at_once(case, prompts)
    trial = rows[:: max(1, len(rows) // most)][:most]
    answer(trial[:1], 2)
    harness.batch_size_per_gpu = min((most // 4 or 1, most), key=lambda batch: timed(batch, trial))

    def work(size: int) -> Block:
        answers_of.clear()
        began = now()
        answer(rows, size or case.longest)
        synchronise(device)
        seconds = now() - began
        answers = [answers_of[tuple(prompt)] for prompt in prompts]
        return Block([seconds], {"batch": harness.batch_size_per_gpu, "most": most, "answers": answers})

    return work


# --- the same answers -------------------------------------------------------------------------------


def ended(ids: list[int], tokenizer: Any, stop: tuple[str, ...], ends: set[int]) -> list[int]:
    """An answer up to the token that ends it: the end-of-text token, or one that completes a stop string."""
    for i, token in enumerate(ids):
        if token in ends or any(s in tokenizer.decode(ids[: i + 1]) for s in stop):
            return ids[: i + 1]
    return ids


def same(case: Case, setting: Setting, mine: dict[str, Any], other: dict[str, Any]) -> Agreement:
    """The tokens written, under one stop rule, and the task's scores of the texts."""
    folder = Path(mine["folder"])
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    config = GenerationConfig.from_pretrained(folder / "model")
    listed = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    ends = {tokenizer.eos_token_id, *listed} - {None}
    # Ours come without the end-of-text token.
    sides = [
        [ended(ids, tokenizer, case.stop, ends) for ids in answers]
        for answers in (
            [
                ids if len(ids) == mine["longest"] else [*ids, tokenizer.eos_token_id]
                for ids in mine["answers"]
            ],
            other["answers"],
        )
    ]
    pairs = list(zip(mine["prompts"], *sides, strict=True))
    parted = [i for i, (_, a, b) in enumerate(pairs) if a != b]
    texts = [[_text(tokenizer, ids, case.stop) for ids in side] for side in sides]
    scores = _scores(case, folder, texts)
    text = f"{len(pairs) - len(parted)} of {len(pairs)} answers the same"
    facts: dict[str, Any] = {"scores": scores, "apart": [], "unproven": 0}
    if parted:
        judge = near_ties.judge_for(folder / "model", setting.torch_dtype)
        if judge.noise == near_ties.EXACT:
            for i in near_ties.spread(len(pairs)):
                judge.measure_text(pairs[i][0], pairs[i][2])
        for i in parted:
            tokens = [len(ids) for ids in pairs[i][1:]]
            facts["apart"].append({"answer": i, "tokens": tokens} | _proof(judge, *pairs[i]))
        message, facts["unproven"] = near_ties.proofs(facts["apart"], judge.noise)
        text += f"; {message}"
        facts["noise"] = judge.noise
    text += f"; {scores['metric']} {100 * scores['ours']:.1f} and {100 * scores['theirs']:.1f}"
    text += f"; the peer's batch {other['batch']}, of at most {other['most']} as ours"
    return Agreement(not facts["unproven"], text, facts)


def _proof(judge: near_ties.Judge, prompt: list[int], one: list[int], other: list[int]) -> dict[str, Any]:
    """Where two answers part, and whether that is a near tie."""
    at = next((i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y), None)
    if at is None:  # one is the other's beginning, ended by no rule that both have
        return {"near_tie": False}
    truth = judge.parting([*prompt, *one[:at]], one[at], other[at])
    return {"at": at} | near_ties.near_tie((0, 1), truth, judge.noise)


def _text(tokenizer: Any, ids: list[int], stop: tuple[str, ...]) -> str:
    """What is scored: up to the first line break or stop string."""
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    for s in (*stop, "\n"):
        text = text.partition(s)[0]
    return text.strip()


def _scores(case: Case, folder: Path, texts: list[list[str]]) -> dict[str, Any]:
    task = make_task(case.task, case.options)
    examples = [
        Example(row["id"], row["language"], row["prompt"], tuple(row["answers"])) for row in read(folder)
    ]
    metric = task.metrics[0]
    means = [
        sum(task.score(e, t)[metric] for e, t in zip(examples, side, strict=True)) / len(examples)
        for side in texts
    ]
    return {"metric": metric, "ours": means[0], "theirs": means[1]}


def cost(case: Case, setting: Setting, folder: Path) -> Cost:
    """Products for each token read (shared beginnings once) and the vocabulary's for each token written.

    The weights are read once a step, of as few steps as the rows allow.
    """
    lm = load(str(folder / "model"), device="cpu", dtype=setting.dtype)
    g = lm.geometry
    table = g.vocabulary * g.hidden
    body = g.parameters - table * (1 if g.tied else 2)
    prompts = lm.tokens.prompts([row["prompt"] for row in read(folder)])
    tokens = len(grow(prompts).tokens)
    written: list[int] = json.loads((folder / "written.json").read_text())
    rows = at_once(case, prompts)
    steps = max(*written, -(-sum(written) // rows))
    facts = {
        "answers": len(prompts),
        "tokens_read_once": tokens,
        "tokens_one_at_a_time": sum(map(len, prompts)),
        "tokens_written": sum(written),
        "texts_at_once": rows,
        "steps": steps,
        "cache_bytes": rows
        * (max(map(len, prompts)) + case.longest)
        * (2 * g.layers * g.kv_heads * g.head_dim * setting.torch_dtype.itemsize),
    }
    # The last token of an answer is written and not read.
    flop = 2 * body * (tokens + sum(written) - len(written)) + 2 * table * sum(written)
    return Cost(flop, (body + table) * setting.torch_dtype.itemsize * steps, facts)


def row(name: str, title: str, case: Case, **more: Any) -> Row:
    parts = {work.__name__: partial(work, case) for work in (prepare, ours, theirs, cost, same)}
    return Row(name=name, title=title, peer="lm-eval, hf backend", rounds=2, **parts, **more)


QUESTIONS: dict[str, Any] = {"task": "xquad", "passage": "context"}

ROWS = [
    row(
        "write-xquad",
        "XQuAD answers, all questions of a passage, the model tuned on English",
        Case(**QUESTIONS, steps=20),
        target=4.0,
    ),
    row(
        "write-endless-xquad",
        "XQuAD answers of a model that never ends them, 32 tokens each",
        Case(**QUESTIONS, stop=(), examples=2),
        target=4.0,
    ),
    row(
        "write-mgsm",
        "MGSM answers, the number alone",
        Case("mgsm", examples=24, languages=("en", "sw"), longest=16),
    ),
    row(
        "slope-answers",
        "XQuAD answers that never end, seconds a token of every answer",
        Case(**QUESTIONS, languages=("en",), stop=(), examples=2),
        sizes=(4, 12, 24),
        memory=False,
    ),
]

"""Scoring choices against lm-evaluation-harness with its Hugging Face backend.

    pip install lm-eval==0.4.13           # the peer; in an environment of its own if you like, with crosstune

Both sides get the same prompts and choices as texts and tokenise them in the time that is measured; same
weights, dtype and threads. The peer batches as it does: sorted by length, one forward for choices of one
token behind the same prompt. Its batch size is the fastest of some, tried on a part of the work in a process
of its own before anything is measured. Examples are those of whole passages, as the full test sets have them.
A choice that differs from the peer's is proven a near tie (`near_ties`) or fails the row.
"""

import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from transformers import AutoModelForCausalLM, AutoTokenizer

import near_ties
from crosstune.data.example import Example
from crosstune.models.attention.trees import grow
from crosstune.models.loading.load import load
from crosstune.outputs.choices import ChoiceItem, score_choices
from crosstune.outputs.settings import EvaluateSettings
from crosstune.tasks import make_task
from harness import Agreement, Block, Cost, Row, Setting, Work
from machine import now, synchronise

BATCHES = (1, 4, 16)
TRIED = 6

Grow = Literal["examples", "choices"]


@dataclass(frozen=True)
class Case:
    """What is asked.

    Attributes:
        task: Of crosstune; its test split is used.
        options: Of the task.
        languages: So many examples each.
        examples: A language; of tasks with passages, all questions of so many passages.
        passage: Field of an example that questions share; None where there is none.
        grow: What the sizes of a row count; None for one size.
    """

    task: str
    options: dict[str, Any] = field(default_factory=dict)
    languages: tuple[str, ...] = ("en", "de", "sw", "th")
    examples: int = 24
    passage: str | None = None
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
    del lm
    gc.collect()
    (folder / "batch.json").write_text(json.dumps(fastest_batch(setting, folder)))


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
    if size == 0:
        return rows
    if case.grow == "choices":
        return [row | {"choices": row["choices"][:size]} for row in rows]
    return rows[:: max(1, len(rows) // size)][:size]


def read(folder: Path) -> list[dict[str, Any]]:
    examples: list[dict[str, Any]] = json.loads((folder / "examples.json").read_text())
    return examples


def ours(case: Case, setting: Setting, folder: Path) -> Work:
    lm = load(str(folder / "model"), device=setting.device, dtype=setting.dtype)
    rows, settings = read(folder), EvaluateSettings()

    def score(chosen: list[dict[str, Any]]) -> tuple[list[ChoiceItem], list[list[float]]]:
        prompts = lm.tokens.prompts([row["prompt"] for row in chosen])
        labels = [tuple(tuple(lm.tokens.answer(choice)) for choice in row["choices"]) for row in chosen]
        items = [ChoiceItem(p, entry) for p, entry in zip(prompts, labels, strict=True)]
        return items, score_choices(lm, items, settings)

    def work(size: int) -> Block:
        lm.tokens.forget()  # kept from the block before
        began = now()
        items, answers = score(part(case, rows, size))
        synchronise(lm.device)
        return Block([now() - began], {"items": items, "answers": answers, "model": folder / "model"})

    score(rows[:1])  # warm, as the peer is
    return work


class Peer:
    """lm-eval's Hugging Face backend on a plain transformers model."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        import logging

        from lm_eval.models.huggingface import HFLM

        logging.disable(logging.WARNING)
        model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=setting.torch_dtype)
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        bos = tokenizer.bos_token_id
        begins = bos is not None and tokenizer("a")["input_ids"][0] == bos
        device = setting.torch_device
        self.harness = HFLM(
            pretrained=model.to(device),
            tokenizer=tokenizer,
            device=str(device),
            batch_size=1,
            add_bos_token=begins,
        )

    def answer(self, chosen: list[dict[str, Any]], batch: int) -> list[list[float]]:
        """Log-probability of each choice of each row."""
        from lm_eval.api.instance import Instance

        self.harness.batch_size_per_gpu = batch
        instances = [
            Instance("loglikelihood", row, (row["prompt"], f" {choice}"), i)
            for row in chosen
            for i, choice in enumerate(row["choices"])
        ]
        actual = iter(self.harness.loglikelihood(instances, disable_tqdm=True))
        return [[next(actual)[0] for _ in row["choices"]] for row in chosen]


def fastest_batch(setting: Setting, folder: Path) -> int:
    """The peer's fastest batch size of `BATCHES`, on a part of the work."""
    peer, rows = Peer(setting, folder), read(folder)
    # Choices of one token go through together, longer ones are texts of their own.
    tried = TRIED if any(" " in row for row in rows[0]["choices"]) else max(BATCHES)
    trial = rows[:: max(1, len(rows) // tried)][:tried]
    peer.answer(trial[:1], 1)

    def seconds(batch: int) -> float:
        began = now()
        peer.answer(trial, batch)
        return now() - began

    return min(BATCHES, key=seconds)


def theirs(case: Case, setting: Setting, folder: Path) -> Work:
    peer, rows = Peer(setting, folder), read(folder)
    batch: int = json.loads((folder / "batch.json").read_text())
    peer.answer(rows[:1], 1)  # warm, as crosstune is

    def work(size: int) -> Block:
        chosen = part(case, rows, size)
        began = now()
        answers = peer.answer(chosen, batch)
        synchronise(setting.torch_device)
        return Block([now() - began], {"batch": batch, "answers": answers})

    return work


def same(setting: Setting, mine: dict[str, Any], other: dict[str, Any]) -> Agreement:
    """The choices picked."""
    setup = (mine["model"], setting.torch_dtype, mine["items"])
    comparison = near_ties.compare(*setup, mine["answers"], other["answers"])
    text = f"{comparison.text}; the peer's batch {other['batch']}"
    return Agreement(comparison.same, text, comparison.figures | {"batch_of_peer": other["batch"]})


def cost(case: Case, setting: Setting, folder: Path) -> Cost:
    """Products for every text token, shared beginnings once, and for answer rows the vocabulary.

    Of the top layer keys and values for every token, and the rest for answer rows.
    """
    lm = load(str(folder / "model"), device="cpu", dtype=setting.dtype)
    rows, g = read(folder), lm.geometry
    table = g.vocabulary * g.hidden
    body = g.parameters - table * (1 if g.tied else 2)
    layer = lm.decoder.layers[-1]
    parts = (layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp)
    top = sum(p.numel() for part in parts for p in part.parameters())
    prompts = lm.tokens.prompts([row["prompt"] for row in rows])
    labels = [[lm.tokens.answer(choice) for choice in row["choices"]] for row in rows]
    pairs = list(zip(prompts, labels, strict=True))
    texts = [[*prompt, *label[:-1]] for prompt, entry in pairs for label in entry]
    # A label's first token needs its own column alone.
    answers = len({(*p, *x[:n]) for p, pair in pairs for x in pair for n in range(1, len(x))})
    tree = grow(texts)
    tokens, scored = len(tree.tokens), answers + len(rows)
    window = getattr(lm.decoder.config, "sliding_window", None) or max(tree.positions) + 1
    seen = sum(min(place + 1, window) for place in tree.positions)
    squares = 2 * seen * (g.layers - 1) * g.q_size  # scores and mixtures, multiplications
    facts = {
        "examples": len(rows),
        "tokens_read_once": tokens,
        "tokens_one_at_a_time": sum(map(len, texts)),
        "vocabulary_rows": answers,
    }
    products = (body - top) * tokens + top * scored + table * answers + squares
    return Cost(2 * products, (body + table) * setting.torch_dtype.itemsize, facts)


def row(name: str, title: str, case: Case, **more: Any) -> Row:
    parts = {work.__name__: partial(work, case) for work in (prepare, ours, theirs, cost)}
    return Row(name=name, title=title, peer="lm-eval, hf backend", same=same, **parts, **more)


TEXTS: dict[str, Any] = {"task": "belebele", "options": {"answers": "texts"}, "passage": "passage"}

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
        rounds=2,
        target=5.0,
    ),
    row(
        "slope-examples",
        "scoring SIB-200, seconds an example",
        Case("sib200", grow="examples"),
        rounds=2,
        sizes=(16, 48, 96),
        memory=False,
    ),
    row(
        "slope-choices",
        "scoring Belebele's answers' texts, seconds a choice of every question",
        Case(**TEXTS, examples=4, languages=("en",), grow="choices"),
        rounds=2,
        sizes=(2, 3, 4),
        memory=False,
    ),
]

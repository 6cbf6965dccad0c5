"""Training steps against PEFT with the Hugging Face Trainer: speed, peak memory and the loss curve.

Same weights, dtype, batches, initial adapter, optimiser, schedule and clipping on both sides. Batches are
drawn at random, as the Trainer draws them (by length, crosstune's default, suits both sides better). The
peer is set up as its documentation says: right padding to the longest row, labels -100 on prompts.
"""

import itertools
import json
import tempfile
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from crosstune.methods import METHODS
from crosstune.methods.base import Method
from crosstune.models.loading.load import load
from crosstune.outputs.registry import OUTPUTS
from crosstune.outputs.rows import TrainingRow
from crosstune.outputs.settings import EvaluateSettings
from crosstune.tasks import make_task
from crosstune.training import batches
from crosstune.training.loop import train
from crosstune.training.settings import TrainSettings
from harness import Agreement, Block, Cost, Row, Setting, Work
from machine import now, synchronise
from peers import peft_model, trainer

# Largest difference of the two loss curves, relative to the loss (plus 0.01 nats), that rounding explains.
NOISE = {torch.float32: 2e-3, torch.bfloat16: 1e-1}


@dataclass(frozen=True)
class Case:
    """What is trained on what.

    Attributes:
        method: Of crosstune.
        config: Its settings, in the form that the peer has too.
        task: Its English training split is used.
        kind: "choice" (one token is learned) or "generation".
        batch: Examples a step.
        steps: A block; the first is left out.
        examples: Of the training split, read from its beginning.
        model: In place of the one asked for: where the peer knows the method on some architectures only.
    """

    method: str
    config: dict[str, Any] = field(default_factory=dict)
    task: str = "sib200"
    kind: str = "choice"
    batch: int = 16
    steps: int = 6
    examples: int = 2000
    model: str | None = None

    def settings(self) -> TrainSettings:
        return TrainSettings(steps=self.steps, batch_size=self.batch, warmup_steps=2, by_length=False)

    def make(self) -> Method:
        kind = METHODS[self.method]
        return kind(kind.Config(**self.config))


def prepare(case: Case, setting: Setting, folder: Path) -> None:
    """Write the model, the rows and the adapter's first weights."""
    lm = load(case.model or setting.model, device=setting.device, dtype=setting.dtype)
    lm.model.save_pretrained(folder / "model")
    lm.tokenizer.save_pretrained(folder / "model")
    examples = make_task(case.task).examples("train", "en")[: case.examples]
    rows = OUTPUTS[case.kind](lm, EvaluateSettings(choices="first-token")).rows(examples)
    (folder / "rows.json").write_text(json.dumps([asdict(row) for row in rows]))
    method = case.make()
    method.attach(lm, seed=0)
    # Of full fine-tuning the first weights are the model's.
    state = {} if case.method == "full" else method.state()
    save_file({name: x.contiguous() for name, x in state.items()}, folder / "adapter.safetensors")
    facts = {"rate": method.default_rate, "pad": lm.pad_id, "geometry": asdict(lm.geometry)}
    (folder / "facts.json").write_text(json.dumps(facts))


def read_rows(folder: Path) -> list[TrainingRow]:
    rows = json.loads((folder / "rows.json").read_text())
    return [TrainingRow(tuple(r["ids"]), r["answer"], tuple(r["choices"])) for r in rows]


def drawn(case: Case, folder: Path) -> list[list[TrainingRow]]:
    """The batches of a block."""
    return list(itertools.islice(batches.order(read_rows(folder), case.batch, 0, False), case.steps))


def ours(case: Case, setting: Setting, folder: Path) -> Work:
    lm = load(str(folder / "model"), device=setting.device, dtype=setting.dtype)
    rows = read_rows(folder)

    def work(size: int) -> Block:
        method = case.make()
        method.attach(lm, seed=0)
        marks = [now()]

        def tell(progress: Any) -> None:
            synchronise(lm.device)
            marks.append(now())

        result = train(method, rows, case.settings(), seed=0, tell=tell)
        method.detach()
        seconds = [b - a for a, b in itertools.pairwise(marks)]
        return Block(seconds[1:], [point["loss"] for point in result.curve])

    return work


def peer_rows(read: list[list[TrainingRow]]) -> list[dict[str, list[int]]]:
    """Rows of some batches, one after the other, as the Trainer takes them."""
    return [
        {
            "input_ids": list(r.ids),
            "attention_mask": [1] * len(r.ids),
            "labels": [-100] * (len(r.ids) - r.answer) + list(r.ids[-r.answer :]),
        }
        for batch in read
        for r in batch
    ]


def theirs(case: Case, setting: Setting, folder: Path) -> Work:
    facts = json.loads((folder / "facts.json").read_text())
    state = load_file(folder / "adapter.safetensors")
    data = peer_rows(drawn(case, folder))

    def work(size: int) -> Block:
        model = peft_model(case, setting, folder / "model", state)
        with tempfile.TemporaryDirectory() as out:
            stock, clock = trainer(model, data, case.settings(), facts["rate"], facts["pad"], setting, out)
            stock.train()
        return Block(clock.seconds[1:], clock.losses)

    return work


def same(setting: Setting, mine: list[float], other: list[float]) -> Agreement:
    """Loss curves, to rounding."""
    allowed = NOISE[setting.torch_dtype]
    apart = max(abs(a - b) / (abs(b) + 0.01) for a, b in zip(mine, other, strict=True))
    pairs = " ".join(f"{a:.3f}/{b:.3f}" for a, b in zip(mine, other, strict=True))
    text = f"losses {pairs}; at most {100 * apart:.2g}% apart ({100 * allowed:.2g}% allowed)"
    return Agreement(apart <= allowed, text, {"ours": mine, "theirs": other, "largest_difference": apart})


def cost(case: Case, setting: Setting, folder: Path) -> Cost:
    """Products with text tokens: forward, the activations' gradients and, for ``full``, the weights'.

    What need not be computed is left out: of the top layer, all but keys and values at tokens that predict
    nothing; of the bottom layer, gradients of queries, keys and values for an input that is not trained.
    Rounded down: a LoRA's own products, the optimiser and everything element-wise count nothing.
    """
    g = json.loads((folder / "facts.json").read_text())["geometry"]
    read = drawn(case, folder)[1:]
    lengths = [len(row.ids) - 1 for batch in read for row in batch]
    tokens, answers = sum(lengths) / len(read), sum(row.answer for b in read for row in b) / len(read)
    table = g["vocabulary"] * g["hidden"]
    body = g["parameters"] - table * (1 if g["tied"] else 2)
    passes = 3 if case.method == "full" else 2
    q_size, kv_size = g["heads"] * g["head_dim"], g["kv_heads"] * g["head_dim"]
    top = 2 * g["hidden"] * q_size + 3 * g["hidden"] * g["intermediate"]
    bottom = 0 if case.method in ("full", "soft-prompt") else g["hidden"] * (q_size + 2 * kv_size)
    # Scores and mixtures, each over half the square of a row, in all layers but the top one; their gradients
    # take twice that.
    squares = 2 * sum(n * n for n in lengths) / len(read) * (g["layers"] - 1) * q_size
    products = passes * (body * tokens + table * answers - top * (tokens - answers)) - bottom * tokens
    flop = 2 * products + 3 * squares
    nbytes = passes * (body + table) * setting.torch_dtype.itemsize
    padded = sum(len(batch) * max(len(row.ids) for row in batch) for batch in read) / len(read)
    facts = {"tokens": round(tokens), "answer_tokens": round(answers, 1), "padded_by_peer": round(padded)}
    return Cost(flop, nbytes, facts | {"batch": case.batch, "task": case.task})


def row(name: str, title: str, case: Case, **targets: Any) -> Row:
    parts = {part.__name__: partial(part, case) for part in (prepare, ours, theirs, cost)}
    # Mixed precision: as with crosstune's fp32 masters, bf16 is what is computed with.
    peer = "PEFT + HF Trainer" if case.method != "full" else "HF Trainer, fp32 weights"
    return Row(name=name, title=title, peer=peer, same=same, **parts, **targets)


# The forms that PEFT has: prefixes of keys and values, no layer choice.
METHOD_FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA": ("lora", {}),
    "prefix": ("prefix", {"space": "kv"}),
    "soft prompt": ("soft-prompt", {}),
}
LONG: dict[str, Any] = {"task": "xquad", "kind": "generation", "batch": 8, "steps": 4}

ROWS = [
    *(
        row(
            f"train-{method}-sib200",
            f"training step, {label}, SIB-200, batch of 16",
            Case(method, config),
            target=5.0,
            floor_target=0.6,
        )
        for label, (method, config) in METHOD_FORMS.items()
    ),
    *(
        row(
            f"train-{method}-xquad",
            f"training step, {label}, contexts of XQuAD's length, batch of 8",
            Case(method, config, **LONG),
            target=3.0,
            floor_target=0.6,
            memory_target=1 / 3,
        )
        for label, (method, config) in METHOD_FORMS.items()
    ),
    row(
        "train-llama-adapter-sib200",
        "training step, LLaMA-Adapter, SmolLM2 135M (PEFT knows no Gemma), SIB-200, batch of 16",
        Case("llama-adapter", {"gate": "layer", "squash": "none"}, model="demo:smollm2-135m"),
        floor_target=0.6,
    ),
    row(
        "train-full-sib200",
        "training step, full fine-tuning, SIB-200, batch of 16",
        Case("full", steps=4),
        floor_target=0.6,
    ),
]

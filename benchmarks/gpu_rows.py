"""Rows of `gpu.py` that train, and what all its rows are made of."""

import contextlib
import functools
import itertools
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import peers
import training
from crosstune.models.attention import hook as attention
from crosstune.models.attention.choose import BatchForm, lay_out
from crosstune.models.attention.gpu_line import suits
from crosstune.models.language_model import LanguageModel
from crosstune.outputs.rows import TrainingRow as Example
from crosstune.training.batches import Batch, collate
from crosstune.training.loop import train
from crosstune.training.objectives import answer_loss
from crosstune.training.settings import OptimizerName
from harness import Agreement, Block, Cost, Row, Setting, Work
from machine import synchronise
from random_model import twin

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "soft-prompt": ("soft-prompt", {"init": "random"}),
    "prefix-kv": ("prefix", {"space": "kv", "init": "random"}),
    "prefix-hidden": ("prefix", {"space": "hidden", "init": "random"}),
    "llama-adapter": ("llama-adapter", {"init": "random", "gate": "layer", "squash": "none"}),
    "lora": ("lora", {}),
    "full-8bit": ("full", {}),
    "full-adafactor": ("full", {}),
    "full": ("full", {}),
}
# Of rows whose optimizer is not AdamW over fp32: ours, and the HF Trainer's name for its own.
OPTIMIZERS: dict[str, tuple[OptimizerName, str]] = {
    "full-8bit": ("adamw-8bit", "adamw_bnb_8bit"),
    "full-adafactor": ("adafactor", "adafactor"),
}
ANSWER = 4  # tokens


@dataclass(frozen=True)
class Options:
    """What a person may ask for beside the harness's own settings."""

    checkpointing: bool
    batch: int
    length: int
    steps: int
    new_tokens: int


@dataclass
class Bench:
    """One model and what its rows are made of."""

    lm: LanguageModel
    options: Options
    peaks: dict[str, int] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.lm.device

    @functools.cached_property
    def stock(self) -> Any:
        """Transformers' own model over the same weights."""
        return twin(self.lm.model)

    def texts(self, count: int, seed: int) -> list[list[int]]:
        """Token ids of lengths between half of ``--length`` and all of it."""
        draw, o = random.Random(seed), self.options
        lengths = [draw.randint(max(2, o.length // 2), o.length) for _ in range(count)]
        return [[draw.randrange(3, self.lm.geometry.vocabulary) for _ in range(n)] for n in lengths]

    @contextlib.contextmanager
    def watched(self, side: str) -> Iterator[None]:
        """Note the side's highest GPU memory."""
        if self.device.type != "cuda":
            yield
            return
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        yield
        self.peaks[side] = max(self.peaks.get(side, 0), torch.cuda.max_memory_allocated(self.device))

    def work(self, side: str, do: Callable[[], Block]) -> Callable[[Setting, Path], Work]:
        """What the harness wants of a side: blocks, after one that is not measured (kernels are compiled)."""

        def build(setting: Setting, folder: Path) -> Work:
            do()

            def block(size: int) -> Block:
                with self.watched(side):
                    return do()

            return block

        return build

    def timed(self, do: Callable[[], Any]) -> Block:
        """One unit of work."""
        synchronise(self.device)
        began = time.perf_counter()
        answers = do()
        synchronise(self.device)
        return Block([time.perf_counter() - began], answers)

    def flop(self, tokens: float, scored: float, passes: int) -> float:
        """Of matrix products: ``passes`` times a forward, with ``scored`` rows of the vocabulary."""
        g = self.lm.geometry
        table = g.vocabulary * g.hidden
        body = g.parameters - table * (1 if g.tied else 2)
        return 2.0 * passes * (body * tokens + table * scored)

    def weight_bytes(self, head: bool) -> int:
        """Read by one forward: the layers, and the vocabulary's scores where they are asked for."""
        model: Any = self.lm.model
        output = model.get_output_embeddings().weight
        tables = {id(w): w.nbytes for w in (self.lm.embedding.weight, output)}
        layers = sum(p.nbytes for p in model.parameters()) - sum(tables.values())
        return layers + head * int(output.nbytes)


def nothing(setting: Setting, folder: Path) -> None:
    """These rows are made in memory."""


# --- training --------------------------------------------------------------------------------------


def _peer(method: str, optimizer: str, packed: bool) -> str:
    peer = "HF Trainer" if method == "full" else "PEFT + HF Trainer"
    if packed:
        peer += ", padding-free, " + ("Liger" if peers.has_liger() else "without Liger: not installed")
    return peer if optimizer == "adamw_torch" else f"{peer}, {optimizer}, bf16 rounded to the nearest"


def training_row(bench: Bench, name: str, packed: bool = False) -> Row:
    """A method's step against PEFT's, or with ``packed`` against PEFT's without padding and with Liger."""
    method, config = METHODS[name]
    own_optimizer, their_optimizer = OPTIMIZERS.get(name, ("adamw", "adamw_torch"))
    o = bench.options
    case = training.Case(method, config, "random tokens", "generation", o.batch, o.steps)
    refused = o.checkpointing and name.startswith("prefix")
    checkpointing = " (the peer without: PEFT refuses it for prefixes)" if refused else ""
    checkpointing = f", checkpointing{checkpointing}" if o.checkpointing else ""
    settings = case.settings().model_copy(
        update={
            "gradient_checkpointing": o.checkpointing,
            "tokens_per_pass": 4 * o.batch * o.length,
            "optimizer": own_optimizer,
        }
    )
    rows = [Example(tuple(ids), ANSWER) for ids in bench.texts(8 * o.batch, seed=1)]
    # PEFT has no prefix of hidden vectors: its own prefix stands beside it, for time alone.
    known = "prefix-kv" if name == "prefix-hidden" else name
    first: dict[str, Tensor] = {}

    def prepare(setting: Setting, folder: Path) -> None:
        start = replace(case, config=METHODS[known][1]).make()
        if method != "full":
            start.attach(bench.lm, seed=0)
            first.update({k: x.detach().clone() for k, x in start.state().items()})
            start.detach()
        (folder / "rows.json").write_text(json.dumps([asdict(row) for row in rows]))
        facts = {"rate": start.default_rate, "pad": bench.lm.pad_id, "geometry": asdict(bench.lm.geometry)}
        (folder / "facts.json").write_text(json.dumps(facts))

    def ours() -> Block:
        tuned, lm = case.make(), bench.lm
        tuned.attach(lm, seed=0)
        marks = [time.perf_counter()]

        def mark(progress: Any) -> None:
            synchronise(lm.device)
            marks.append(time.perf_counter())

        try:
            result = train(tuned, rows, settings, seed=0, tell=mark)
        finally:
            tuned.detach()
        seconds = [b - a for a, b in itertools.pairwise(marks)]
        return Block(seconds[1:], [point["loss"] for point in result.curve])

    def theirs(setting: Setting, folder: Path) -> Work:
        data = training.peer_rows(training.drawn(case, folder))
        facts = json.loads((folder / "facts.json").read_text())

        def block(size: int) -> Block:
            with bench.watched("theirs"), tempfile.TemporaryDirectory() as out:
                base = twin(bench.lm.model)
                if o.checkpointing and not refused:
                    base.gradient_checkpointing_enable({"use_reentrant": False})
                model = peers.wrapped(base, method, first)
                with peers.as_before(base, trained=method == "full"):
                    trainer, clock = peers.trainer(
                        model,
                        data,
                        settings,
                        facts["rate"],
                        facts["pad"],
                        setting,
                        out,
                        their_optimizer,
                        packed,
                    )
                    trainer.train()
            return Block(clock.seconds[1:], clock.losses)

        return block

    def same(setting: Setting, mine: list[float], other: list[float]) -> Agreement:
        if name in OPTIMIZERS:
            text = "losses not compared: the peer rounds to the nearest"
            return Agreement(True, text, {"ours": mine, "theirs": other})
        if known != name:
            return Agreement(True, "losses not compared: PEFT has prefixes of keys and values only")
        return training.same(setting, mine, other)

    return Row(
        name=f"train-{name}-packed" if packed else f"train-{name}",
        title=f"training step, {name}, batch of {o.batch}, up to {o.length} tokens{checkpointing}",
        peer=_peer(method, their_optimizer, packed),
        prepare=prepare,
        ours=bench.work("ours", ours),
        theirs=theirs,
        same=same,
        cost=partial(training.cost, case),
    )


# --- parts of our own, one way and the other -------------------------------------------------------


def in_form(form: BatchForm, rows: list[Example], bench: Bench) -> Batch:
    """Training rows as one batch of a form."""
    balance = bench.lm.geometry.attention_balance
    return collate(rows, lay_out(form, [row.ids[:-1] for row in rows], 0, bench.device, balance))


def mask_row(bench: Bench) -> Row:
    """Prefixes: lower-right causal order without a mask, and the mask that says the same."""
    o = bench.options
    case = training.Case("prefix", METHODS["prefix-kv"][1], "random tokens", "generation", o.batch, 1)
    batch = in_form(
        BatchForm.PADDED, [Example(tuple(ids), ANSWER) for ids in bench.texts(o.batch, seed=5)], bench
    )

    def side(flash: Callable[..., bool]) -> Block:
        method = case.make()
        method.attach(bench.lm, seed=0)
        kept, attention._flash = attention._flash, flash

        def step() -> float:
            loss = answer_loss(bench.lm, batch)
            loss.backward()
            return float(loss.detach())

        try:
            return bench.timed(step)
        finally:
            attention._flash = kept
            method.detach()

    real = attention._flash
    tokens = int(batch.ids.numel())
    return Row(
        name="prefix-mask",
        title="forward and backward with a prefix: no mask (flash, where there is one) against a mask",
        peer="the same, with a mask",
        prepare=nothing,
        ours=bench.work("ours", lambda: side(real)),
        theirs=bench.work("theirs", lambda: side(lambda *args: False)),
        same=lambda setting, mine, other: training.same(setting, [mine], [other]),
        cost=lambda setting, folder: Cost(bench.flop(tokens, o.batch * ANSWER, 2), 0, {"tokens": tokens}),
    )


def packing_row(bench: Bench) -> Row:
    """Texts in one line where the flash kernel takes it, else several a line and a mask; against padding."""
    o, lm = bench.options, bench.lm
    case = training.Case("lora", {}, "random tokens", "generation", o.batch, 1)
    rows = [Example(tuple(ids), ANSWER) for ids in bench.texts(o.batch, seed=7)]
    kernel = suits(lm, o.length, print)
    form = BatchForm.VARLEN if kernel else BatchForm.PACKED
    batches = {
        "ours": in_form(form, rows, bench),
        "theirs": in_form(BatchForm.PADDED, rows, bench),
    }

    def side(name: str) -> Block:
        method = case.make()
        method.attach(lm, seed=0)

        def step() -> float:
            loss = answer_loss(lm, batches[name])
            loss.backward()
            return float(loss.detach())

        try:
            return bench.timed(step)
        finally:
            method.detach()

    way = "all texts in one line, no padding" if kernel else "several texts a line and a mask"
    tokens = sum(len(row.ids) - 1 for row in rows)
    facts = {"tokens": tokens, "kernel": kernel} | {
        f"padded_{side}": batch.ids.numel() for side, batch in batches.items()
    }
    return Row(
        name="packing",
        title=f"forward and backward with LoRA: {way}, against one text a line",
        peer="one text a line",
        prepare=nothing,
        ours=bench.work("ours", lambda: side("ours")),
        theirs=bench.work("theirs", lambda: side("theirs")),
        same=lambda setting, mine, other: training.same(setting, [mine], [other]),
        cost=lambda setting, folder: Cost(bench.flop(tokens, o.batch * ANSWER, 2), 0, facts),
    )


def grid_row(bench: Bench, runs: int = 4, batch: int = 2) -> Row:
    """What stepping several runs together could save: the same tokens in one pass, and in a pass a run.

    One adapter stands for all: adapters of their own can only make the one pass slower.
    """
    lm = bench.lm
    case = training.Case("lora", {}, "random tokens", "generation", batch, 1)
    rows = [Example(tuple(ids), ANSWER) for ids in bench.texts(runs * batch, seed=6)]
    passes = {"ours": [rows], "theirs": [rows[i * batch : (i + 1) * batch] for i in range(runs)]}
    batches = {
        side: [in_form(BatchForm.PADDED, part, bench) for part in parts] for side, parts in passes.items()
    }

    def side(name: str) -> Block:
        method = case.make()
        method.attach(lm, seed=0)

        def step() -> float:
            total = 0.0
            for one in batches[name]:
                loss = answer_loss(lm, one)
                loss.backward()
                total += float(loss.detach())
            return total / len(rows)

        try:
            return bench.timed(step)
        finally:
            method.detach()

    tokens = sum(len(row.ids) - 1 for row in rows)
    return Row(
        name="grid",
        title=f"{runs} runs of {batch} examples each in one pass, against a pass each",
        peer=f"{runs} passes",
        prepare=nothing,
        ours=bench.work("ours", lambda: side("ours")),
        theirs=bench.work("theirs", lambda: side("theirs")),
        same=lambda setting, mine, other: training.same(setting, [mine], [other]),
        cost=lambda setting, folder: Cost(
            bench.flop(tokens, len(rows) * ANSWER, 2), 2 * bench.weight_bytes(True), {"tokens": tokens}
        ),
    )

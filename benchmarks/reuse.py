"""Training with the states of frozen layers reused, against the same training without.

Only the top 4 layers are adapted. The sizes are epochs, of the same 160 sentences: the fixed part of a line
is what the first epoch costs beyond the others, and its slope is one of the others. Each training begins with
nothing kept, as the first run of a grid does; a later run of it costs the slope from its first epoch on.
"""

from functools import partial
from pathlib import Path
from typing import Any

from crosstune.models.loading.load import load
from crosstune.training.loop import train
from crosstune.training.settings import TrainSettings
from harness import Block, Cost, Row, Setting, Work
from machine import now, synchronise
from training import Case, prepare, read_rows, same

EPOCHS = (1, 2, 4)


def side(reuse: bool, case: Case, setting: Setting, folder: Path) -> Work:
    lm = load(str(folder / "model"), device=setting.device, dtype=setting.dtype)
    rows = read_rows(folder)

    def go(**length: Any) -> Block:
        lm.activation_cache.clear()
        method = case.make()
        method.attach(lm, seed=0)
        settings = TrainSettings(
            batch_size=case.batch, warmup_steps=2, reuse_frozen_layers=reuse, decay="constant", **length
        )
        began = now()
        result = train(method, rows, settings, seed=0)
        synchronise(lm.device)
        took = now() - began
        method.detach()
        return Block([took], [point["loss"] for point in result.curve])

    go(steps=2)  # kernels are made at their first use
    return lambda size: go(epochs=size)


def cost(setting: Setting, folder: Path) -> Cost:
    """Lines are compared, not floors."""
    return Cost()


def row(label: str, case: Case) -> Row:
    return Row(
        name=f"reuse-{case.method}-sib200",
        title=f"seconds of training by epochs, {label} in the top 4 layers, SIB-200, batch of 16",
        peer="crosstune without reuse",
        prepare=partial(prepare, case),
        ours=partial(side, True, case),
        theirs=partial(side, False, case),
        same=same,
        cost=cost,
        sizes=EPOCHS,
        rounds=1,
        memory=False,
    )


ROWS = [
    row(label, Case(method, {"layers": 4}, examples=160))
    for label, method in (("LoRA", "lora"), ("prefix", "prefix"), ("LLaMA-Adapter", "llama-adapter"))
]

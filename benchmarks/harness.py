"""One row of a benchmark: crosstune and a peer do the same work, taking turns, in one run.

A row says how to prepare its inputs, how to build each side from them, and when two answers are the
same. The harness lets the sides take turns in blocks (neither has the machine at a better time),
measures what the machine can do in between, gives medians with quartiles, compares the answers of
every block, and measures each side's peak memory in a process of its own. A faster wrong answer fails.

    Row(
        name="train-lora-sib200",
        title="training step, LoRA, SIB-200, batch of 16",
        peer="PEFT + HF Trainer",
        prepare=...,   # (setting, folder): write what both sides read; runs once, in a process of its own
        ours=...,      # (setting, folder) -> work: load what is needed, untimed
        theirs=...,    # the same
        same=...,      # (setting, our answers, their answers) -> Agreement
        cost=...,      # (setting, folder) -> Cost of one unit of work
        target=5.0,
    )

``work(size)`` does one block and returns `Block(seconds, answers)`: one figure a unit of work (a step,
a language, ...), warm-up left out. ``size`` is 0 unless the row has ``sizes``: then every size is
measured and the slopes of both sides are compared, not a point.
"""

import gc
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from crosstune.models.loading.device import choose_device, choose_dtype
from machine import bandwidth, facts, matrix_rate

SIDES = ("ours", "theirs")
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Setting:
    """What a person may ask for, the same for all rows.

    Attributes:
        model: As in a study file.
        dtype: Of both sides; "auto" as crosstune chooses.
        device: Of both sides; "auto" as crosstune chooses.
        rounds: Blocks a side; None for the row's own number.
        threads: Of PyTorch; None for its default.
    """

    model: str = "demo:gemma-3-270m"
    dtype: str = "auto"
    device: str = "auto"
    rounds: int | None = None
    threads: int | None = None

    @property
    def torch_device(self) -> torch.device:
        return choose_device(self.device)

    @property
    def torch_dtype(self) -> torch.dtype:
        return choose_dtype(self.dtype, self.torch_device)


@dataclass(frozen=True)
class Block:
    """Seconds of each unit of work in a block, and what came out of it."""

    seconds: list[float]
    answers: Any


@dataclass(frozen=True)
class Agreement:
    """Whether two sides gave the same answers, and in one line how far they are apart."""

    same: bool
    text: str
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """The least one unit of work can take: arithmetic and traffic that no implementation avoids.

    Attributes:
        flop: Of matrix products.
        nbytes: Read or written, at least.
        facts: Sizes worth a place in the result (tokens, rows, ...).
    """

    flop: float = 0.0
    nbytes: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


Work = Callable[[int], Block]
Build = Callable[[Setting, Path], Work]


@dataclass(frozen=True)
class Row:
    """One row; see the module's description.

    Attributes:
        target: Times as fast as the peer that is asked for; None for no such figure.
        memory_target: Share of the peer's peak memory that is asked for.
        floor_target: Share of the floor that is asked for.
        memory: Whether each side's peak memory is measured.
        check: Options that the row cannot run with raise here, before any work.
    """

    name: str
    title: str
    peer: str
    prepare: Callable[[Setting, Path], None]
    ours: Build
    theirs: Build
    same: Callable[[Setting, Any, Any], Agreement]
    cost: Callable[[Setting, Path], Cost]
    target: float | None = None
    memory_target: float | None = None
    floor_target: float | None = None
    rounds: int = 3
    sizes: tuple[int, ...] = ()
    memory: bool = True

    def build(self, side: str) -> Build:
        return self.ours if side == "ours" else self.theirs


def run(row: Row, setting: Setting, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure a row; the result is what is written as JSON. ``passed`` is False when answers differ."""
    say(f"\n{row.name}: {row.title}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _subprocess("prepare", row, setting, folder)
        memory = {side: _subprocess(side, row, setting, folder) for side in SIDES} if row.memory else {}
        result = turns(row, setting, folder) | {"memory": memory}
    if memory:
        result["memory_share"] = {
            key: memory["ours"][key] / memory["theirs"][key] for key in ("peak", "peak_beyond_libraries")
        }
    result["targets"] = {
        "ratio": row.target,
        "memory_share": row.memory_target,
        "share_of_floor": row.floor_target,
    }
    tell(row, result, say)
    return result


def turns(row: Row, setting: Setting, folder: Path, seconds_left: float | None = None) -> dict[str, Any]:
    """Blocks of both sides in turn, with the machine's rates measured in between.

    With ``seconds_left`` no new turn begins once they are over; the first is always done.
    """
    began = time.perf_counter()
    device, dtype = setting.torch_device, setting.torch_dtype
    works = {side: row.build(side)(setting, folder) for side in SIDES}
    sizes = row.sizes or (0,)
    seconds: dict[str, dict[int, list[float]]] = {side: {size: [] for size in sizes} for side in SIDES}
    by_turn: dict[str, list[dict[int, float]]] = {side: [] for side in SIDES}
    agreements, rates, widths = [], [], []

    def look() -> None:
        rates.append(matrix_rate(device, dtype))
        widths.append(bandwidth(device))

    for turn in range(setting.rounds or row.rounds):
        if turn and seconds_left is not None and time.perf_counter() - began > seconds_left:
            break
        look()
        for side in SIDES:
            by_turn[side].append({})
        for size in sizes:
            answers = {}
            # Who goes first changes from turn to turn.
            for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
                gc.collect()
                block = works[side](size)
                seconds[side][size] += block.seconds
                by_turn[side][-1][size] = statistics.median(block.seconds)
                answers[side] = block.answers
            agreements.append(row.same(setting, answers["ours"], answers["theirs"]))
    # A machine that was slow for a moment would make the floor high, and the share of it flatter.
    look()
    cost = row.cost(setting, folder)
    rate, width = max(rates), max(widths)
    floor = max(cost.flop / rate, cost.nbytes / width)
    result: dict[str, Any] = {
        "row": row.name,
        "title": row.title,
        "peer": row.peer,
        "setting": asdict(setting),
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(device),
        "machine": facts(device),
        "matrix_gflops": rate / 1e9,
        "bandwidth_gbytes": width / 1e9,
        "work": cost.facts,
        "answers": asdict(next((a for a in agreements if not a.same), agreements[-1])),
        "passed": all(a.same for a in agreements),
    }
    if row.sizes:
        return result | _slopes(by_turn)
    took = {side: seconds[side][0] for side in SIDES}
    middle = {side: statistics.median(took[side]) for side in SIDES}
    return result | {
        "seconds": {side: _spread(took[side]) for side in SIDES},
        "ratio": middle["theirs"] / middle["ours"],
        "floor": {
            "flop": cost.flop,
            "bytes": cost.nbytes,
            "arithmetic_seconds": cost.flop / rate,
            "traffic_seconds": cost.nbytes / width,
            "seconds": floor,
        },
        "share_of_floor": floor / middle["ours"],
        "share_of_floor_theirs": floor / middle["theirs"],
    }


def _spread(took: list[float]) -> dict[str, Any]:
    low, _, high = statistics.quantiles(took, n=4) if len(took) > 1 else took * 3
    return {"median": statistics.median(took), "quartiles": [low, high], "all": took}


def _slopes(turns_of: dict[str, list[dict[int, float]]]) -> dict[str, Any]:
    """Least-squares lines through the sizes: one a turn, so that what is said of them has a spread.

    Args:
        turns_of: Of each side, each turn's median seconds by size.
    """
    lines = {
        side: [statistics.linear_regression(list(turn), list(turn.values())) for turn in turns]
        for side, turns in turns_of.items()
    }
    ratios = [a.slope / b.slope for a, b in zip(lines["theirs"], lines["ours"], strict=True)]
    return {
        "seconds_by_size": {
            side: {size: _spread([turn[size] for turn in turns]) for size in turns[0]}
            for side, turns in turns_of.items()
        },
        "lines": {
            side: {
                "slope": _spread([line.slope for line in entry]),
                "fixed": _spread([line.intercept for line in entry]),
            }
            for side, entry in lines.items()
        },
        "ratio": statistics.median(ratios),
        "ratio_spread": _spread(ratios),
    }


# --- a process of its own --------------------------------------------------------------------------


def _subprocess(part: str, row: Row, setting: Setting, folder: Path) -> dict[str, Any]:
    """Run `alone` in a new process and take what it prints last."""
    options = itertools.chain.from_iterable(
        (f"--{name}", str(value)) for name, value in asdict(setting).items() if value is not None
    )
    command = [sys.executable, str(HERE / "run.py"), row.name, *options, "--alone", part, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{row.name} ({part}) failed:\n{done.stderr}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def alone(part: str, row: Row, setting: Setting, folder: Path) -> dict[str, Any]:
    """Prepare a row's inputs, or measure the peak memory of one block of one side."""
    if part == "prepare":
        row.prepare(setting, folder)
        return {}
    device = setting.torch_device
    before = _resident("VmRSS")
    work = row.build(part)(setting, folder)
    gc.collect()
    loaded = _resident("VmRSS")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        work(max(row.sizes, default=0))
        peak = torch.cuda.max_memory_allocated(device)
        return {"libraries": 0, "loaded": held, "peak": peak, "peak_beyond_libraries": peak}
    # The high-water mark starts anew, so that loading does not count (Linux: proc(5), clear_refs).
    Path("/proc/self/clear_refs").write_text("5")
    work(max(row.sizes, default=0))
    peak = _resident("VmHWM")
    return {"libraries": before, "loaded": loaded, "peak": peak, "peak_beyond_libraries": peak - before}


def _resident(name: str) -> int:
    """Bytes of a field of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {name} in /proc/self/status")


# --- what is printed -------------------------------------------------------------------------------


def tell(row: Row, result: dict[str, Any], say: Callable[[str], None]) -> None:
    names = {"ours": "crosstune", "theirs": row.peer}
    for side in SIDES:
        if row.sizes:
            slope, fixed = (result["lines"][side][key] for key in ("slope", "fixed"))
            text = (
                f"{slope['median'] * 1000:.2f} ms a unit more ({_range(slope, 1000)}), "
                f"{fixed['median']:.3f} s fixed ({_range(fixed)})"
            )
        else:
            spread = result["seconds"][side]
            low, high = spread["quartiles"]
            text = f"{spread['median']:.3f} s (quartiles {low:.3f} to {high:.3f})"
        if result["memory"]:
            peak, beyond = (result["memory"][side][k] / 2**30 for k in ("peak", "peak_beyond_libraries"))
            text += f"; peak {peak:.2f} GiB, {beyond:.2f} beyond the libraries"
        say(f"  {names[side]:<24} {text}")
    text = f"{result['ratio']:.2f} times as fast{_asked(row.target)}"
    if row.sizes:
        text += f" ({_range(result['ratio_spread'])} in {len(result['ratio_spread']['all'])} turns)"
    else:
        share = f"{100 * result['share_of_floor']:.0f}% of it reached"
        text += f"; floor {result['floor']['seconds']:.3f} s, {share}{_asked(row.floor_target)}"
    if result["memory"]:
        shares = result["memory_share"]
        text += (
            f"; memory {shares['peak']:.2f} of the peer's "
            f"({shares['peak_beyond_libraries']:.2f} beyond the libraries){_asked(row.memory_target)}"
        )
    say(f"  {text}")
    say(f"  {'same answers' if result['passed'] else 'ANSWERS DIFFER'}: {result['answers']['text']}")


def _range(spread: dict[str, Any], times: float = 1) -> str:
    low, high = min(spread["all"]) * times, max(spread["all"]) * times
    return f"{low:.2f} to {high:.2f}"


def _asked(target: float | None) -> str:
    return "" if target is None else f" (asked: {target:.2g})"

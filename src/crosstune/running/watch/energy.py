"""Measures the energy of a block of work: RAPL for processors, NVML for NVIDIA GPUs.

The counters cover whole processor packages and whole GPU boards, including other work on them.
"""

import importlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

POWERCAP = Path("/sys/class/powercap")
_INTERVAL = 60.0  # seconds; a package counter wraps around after some minutes at full load
_ZONES = ("package", "dram")  # a package includes its cores but not the memory


@dataclass
class Counter:
    """An energy counter that increases until it wraps around to 0."""

    read: Callable[[], float]  # returns its value in joules
    limit: float | None = None  # value at which it wraps around, in joules; None if it does not
    joules: float = 0.0  # energy since the first reading
    last: float = field(init=False)

    def __post_init__(self) -> None:
        self.last = self.read()

    def look(self) -> None:
        """Add the energy since the last reading."""
        now = self.read()
        step = now - self.last
        if step < 0:
            step = 0.0 if self.limit is None else step + self.limit
        self.joules += step
        self.last = now


class Meter:
    """Measures the energy of a ``with`` block: of GPUs by PyTorch index, and by the kernel's counters."""

    def __init__(self, gpus: Sequence[int] = (), powercap: Path = POWERCAP) -> None:
        self.gpus, self.powercap = gpus, powercap
        self.counters: dict[str, list[Counter]] = {}
        self._stop = threading.Event()
        self._watch: threading.Thread | None = None

    @property
    def joules(self) -> dict[str, float] | None:
        """By "cpu" and "gpu", each only where it is told; None where nothing is."""
        return {name: sum(one.joules for one in some) for name, some in self.counters.items()} or None

    def look(self) -> None:
        """Read every counter. If one can no longer be read, its kind is dropped: a partial sum misleads."""
        for name, counters in list(self.counters.items()):
            try:
                for counter in counters:
                    counter.look()
            except Exception:  # NVML's errors are classes of its own
                del self.counters[name]

    def __enter__(self) -> Self:
        meters = {"cpu": rapl(self.powercap), "gpu": nvml(self.gpus)}
        self.counters = {name: counters for name, counters in meters.items() if counters}
        if self.counters:
            self._stop.clear()
            self._watch = threading.Thread(target=self._looking, daemon=True)
            self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watch is not None:
            self._stop.set()
            self._watch.join()
            self._watch = None
            self.look()

    def _looking(self) -> None:
        while not self._stop.wait(_INTERVAL):
            self.look()


def rapl(powercap: Path = POWERCAP) -> list[Counter]:
    """Counters of the processors' packages and memory; none where they are missing or may not be read."""
    counters = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        try:
            if (zone / "name").read_text().startswith(_ZONES):
                limit = int((zone / "max_energy_range_uj").read_text()) / 1e6
                counters.append(Counter(_reader(zone / "energy_uj"), limit))
        except (OSError, ValueError):
            return []
    return counters


def _reader(file: Path) -> Callable[[], float]:
    return lambda: int(file.read_text()) / 1e6


def nvml(gpus: Sequence[int]) -> list[Counter]:
    """Counters of some GPUs, by PyTorch index; empty if the driver or library is missing."""
    if not gpus:
        return []
    try:
        import torch

        pynvml: Any = importlib.import_module("pynvml")
        pynvml.nvmlInit()
        # By UUID: NVML numbers all GPUs of the machine, PyTorch only the visible ones, in another order.
        names = [f"GPU-{torch.cuda.get_device_properties(gpu).uuid}" for gpu in gpus]
        return [Counter(_board(pynvml, pynvml.nvmlDeviceGetHandleByUUID(name))) for name in names]
    except Exception:  # old GPU, no driver, no library: NVML has its own exception classes
        return []


def _board(pynvml: Any, handle: Any) -> Callable[[], float]:
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3

"""Joules from counters like the kernel's, in a folder of their own."""

import time
from pathlib import Path

import pytest

from crosstune.running.watch import energy
from crosstune.running.watch.energy import Meter, nvml, rapl


def zone(folder: Path, number: str, name: str, joules: float, limit: float = 1000.0) -> Path:
    """One counter, as /sys/class/powercap has it."""
    built = folder / f"intel-rapl:{number}"
    built.mkdir(parents=True)
    (built / "name").write_text(name + "\n")
    (built / "max_energy_range_uj").write_text(f"{limit * 1e6:.0f}\n")
    count(built, joules)
    return built


def count(zone: Path, joules: float) -> None:
    new = zone / "new"  # put in place at once: a meter may be reading
    new.write_text(f"{joules * 1e6:.0f}\n")
    new.replace(zone / "energy_uj")


def test_packages_and_memory_are_summed_and_parts_of_them_are_not(tmp_path: Path) -> None:
    package, memory = zone(tmp_path, "0", "package-0", 100.0), zone(tmp_path, "0:1", "dram", 10.0)
    core, second = zone(tmp_path, "0:0", "core", 50.0), zone(tmp_path, "1", "package-1", 5.0)
    with Meter(powercap=tmp_path) as meter:
        for entry, joules in ((package, 130.5), (memory, 12.0), (core, 70.0), (second, 6.0)):
            count(entry, joules)
    assert meter.joules == {"cpu": pytest.approx(30.5 + 2.0 + 1.0)}


def test_a_counter_that_starts_again(tmp_path: Path) -> None:
    package = zone(tmp_path, "0", "package-0", 990.0, limit=1000.0)
    with Meter(powercap=tmp_path) as meter:
        count(package, 4.0)
    assert meter.joules == {"cpu": pytest.approx(14.0)}


def test_a_long_block_sees_every_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two turns of the counter within a block, which its two ends alone would not show."""
    monkeypatch.setattr(energy, "_INTERVAL", 0.01)
    package = zone(tmp_path, "0", "package-0", 0.0, limit=100.0)
    with Meter(powercap=tmp_path) as meter:
        for joules in (60.0, 20.0, 80.0, 40.0):
            count(package, joules)
            counter = meter.counters["cpu"][0]
            until = time.monotonic() + 10
            while counter.last != joules and time.monotonic() < until:
                time.sleep(0.005)
    assert meter.joules == {"cpu": pytest.approx(240.0)}


def test_nothing_is_told(tmp_path: Path) -> None:
    with Meter(powercap=tmp_path / "missing") as meter:
        pass
    assert meter.joules is None
    unreadable = zone(tmp_path, "0", "package-0", 1.0)
    (unreadable / "energy_uj").unlink()
    (unreadable / "energy_uj").mkdir()  # what reading it as another user comes to: an OSError
    assert rapl(tmp_path) == []


def test_a_counter_lost_on_the_way_is_not_half_a_sum(tmp_path: Path) -> None:
    zone(tmp_path, "0", "package-0", 1.0)
    with Meter(powercap=tmp_path) as meter:
        (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert meter.joules is None


def test_a_gpu_that_is_not_there_tells_nothing() -> None:
    assert nvml([]) == []
    assert nvml([99]) == []


@pytest.mark.skipif("not __import__('torch').cuda.is_available()", reason="needs an NVIDIA GPU")
def test_a_gpu_uses_energy() -> None:
    pytest.importorskip("pynvml")
    import torch

    with Meter(gpus=[0]) as meter:
        x = torch.ones(4096, 4096, device="cuda")
        for _ in range(200):
            x = x @ x / 4096
        torch.cuda.synchronize()
    assert meter.joules is not None
    assert meter.joules["gpu"] > 1

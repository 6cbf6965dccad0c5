"""Fixtures for tests on tiny random models."""

import contextlib
import gc
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread for each worker, and for what it starts: read when torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    gc.disable()  # until all is imported and collected: what is made by then stays

with contextlib.suppress(ImportError):
    # PEFT's BOFT imports it by way of torch's builder of extensions, and it refuses a process in which the
    # standard library's distutils was imported first, as some test may.
    import setuptools  # noqa: F401

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))  # for tiny_models and reference_decoder

from crosstune.models.language_model import LanguageModel
from tiny_models import FAMILIES, differences, make_lm

# How long an example takes says how busy the machine is, and nothing about what is tested.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each model family in turn."""
    return str(request.param)


@pytest.fixture
def tiny_lm() -> Callable[..., LanguageModel]:
    """``tiny_lm(family, dtype=torch.float32)``: a frozen, hooked model with random weights."""
    return make_lm


# Of few tests that take long: begun first, so that no worker is left alone with one of them at the end.
LONG = (
    "test_real_models.py",
    "test_zoo.py",
    "test_browser.py",
    "test_suite_study.py",
    "test_many_runs.py",
    "test_faults.py",
    "test_every_operation.py",
    "test_demo.py",
    "test_resume.py",
    "test_hostile_strings.py",
    "test_ray_executor.py",
    "test_gpu.py",
    "test_hub.py",
    "test_together.py",
    "test_study_runner.py",
    "test_plan_command.py",
    "test_add_a_task_page.py",
    "test_statistics_check.py",
    "test_benchmarks_study.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order in which workers take them: those of `LONG`, then those with the most tests."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        tests = Counter(item.path for item in items)
        long = {name: place for place, name in enumerate(LONG)}
        items.sort(key=lambda item: (long.get(item.path.name, len(LONG)), -tests[item.path]))


def pytest_collection_finish(session: pytest.Session) -> None:
    """What has been imported by now stays: the collector need not look through it in every test."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """With -v, how far apart the two sides of each numeric test came."""
    if differences and terminalreporter.verbosity >= 0:
        terminalreporter.section("largest differences, relative to the largest entry")
        for name, gap in sorted(differences.items()):
            terminalreporter.write_line(f"{gap:9.2e}  {name}")

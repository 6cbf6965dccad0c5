"""Fixtures for tests on tiny random models."""

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread for each worker, and for what it starts: read when torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

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


def pytest_collection_finish(session: pytest.Session) -> None:
    """What has been imported by now stays: the collector need not look through it again in every test."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """With -v, how far apart the two sides of each numeric test came."""
    if differences and terminalreporter.verbosity >= 0:
        terminalreporter.section("largest differences, relative to the largest entry")
        for name, gap in sorted(differences.items()):
            terminalreporter.write_line(f"{gap:9.2e}  {name}")

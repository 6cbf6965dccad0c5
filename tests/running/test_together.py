"""A study by two processes as torchrun starts them: the runs that one process makes, to rounding."""

import io
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
from rich.console import Console

from crosstune.running.runner import run_study
from crosstune.store.record import RunRecord
from crosstune.study.spec import Study
from saved_model import study_of
from tiny_models import DEVICE

TRAIN = {"steps": 3, "batch_size": 4, "limit": 10, "evaluate_every": 2}


def go(model: Path, store: Path) -> None:
    study = study_of(model, store, methods=["none", "lora", {"name": "full", "layers": 1}], train=TRAIN)
    run_study(Study(**study), console=Console(file=io.StringIO()))


def as_torchrun_does(rank: int, port: int, model: Path, store: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "x"}
    go(model, store)
    os._exit(0)


@pytest.mark.skipif(DEVICE != "cpu", reason="gloo on CPUs")
def test_two_processes_make_a_study(model: Path, tmp_path: Path) -> None:
    go(model, tmp_path / "alone")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    both = [
        context.Process(target=as_torchrun_does, args=(rank, port, model, tmp_path / "both"))
        for rank in range(2)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(200)
    assert [process.exitcode for process in both] == [0, 0]
    alone = {file.parent.name: RunRecord.read(file) for file in (tmp_path / "alone").glob("*/run.json")}
    assert len(alone) == 3
    for run_id, record in alone.items():
        together = RunRecord.read(tmp_path / "both" / run_id / "run.json")
        assert together.hardware["processes"] == 2
        losses = [[point.get("loss") for point in one.curve] for one in (together, record)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
        assert together.cost.train_tokens == record.cost.train_tokens
        assert len(together.dev) == len(record.dev)

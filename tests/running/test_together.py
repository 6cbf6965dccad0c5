"""A study by two processes as torchrun starts them: the runs that one process makes, to rounding."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from crosstune.store.record import RunRecord
from saved_model import study_of
from tiny_models import DEVICE

TRAIN = {"steps": 3, "batch_size": 4, "limit": 10, "evaluate_every": 2}


def started(model: Path, store: Path, rank: int | None = None, port: int = 0) -> "subprocess.Popen[str]":
    """A process that runs the study: one of two, or by itself."""
    file = store.with_suffix(f".{rank}.yaml")
    sharded = {} if rank is None else {"train": {"shard": True}}
    methods = ["none", "lora", {"name": "full", "layers": 1} | sharded]
    study = study_of(model, store, methods=methods, train=TRAIN)
    file.write_text(yaml.safe_dump(study))
    torchrun = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "x",
    }
    env = os.environ | {"OMP_NUM_THREADS": "1"} | ({} if rank is None else torchrun)
    command = [sys.executable, "-m", "crosstune", "run", str(file)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
@pytest.mark.skipif(DEVICE != "cpu", reason="gloo on CPUs")
def test_two_processes_make_a_study(model: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [started(model, tmp_path / "both", rank, port) for rank in range(2)]
    for process in [started(model, tmp_path / "alone"), *both]:
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said
    records = [RunRecord.read(file) for file in tmp_path.glob("*/*/run.json")]
    alone = {record.method.name: record for record in records if "processes" not in record.hardware}
    assert len(alone) == 3
    for together in (record for record in records if "processes" in record.hardware):
        record = alone.pop(together.method.name)
        assert (record.id == together.id) == (record.method.name != "full")  # whose weights are sharded
        assert together.hardware["processes"] == 2
        losses = [[point.get("loss") for point in one.curve] for one in (together, record)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
        assert together.cost.train_tokens == record.cost.train_tokens
        assert len(together.dev) == len(record.dev)
    assert not alone

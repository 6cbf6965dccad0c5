"""A study by two processes as torchrun starts them: the runs that one process makes, to rounding."""

import socket
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from crosstune.store.record import RunRecord
from other_process import called, ended
from saved_model import study_of, write_study
from tiny_models import DEVICE

# Of a file of the user's own: its class can be sent to no other process.
TASK = """
from crosstune.tasks.base import Example, Task

class Order(Task):
    name, version, kind, metrics = "order", 1, "choice", ("accuracy",)
    summary = "a test's own"
    split_names = {"train": "made", "dev": "made", "test": "made"}

    def languages(self):
        return ["en", "de", "ru"]

    def examples(self, split, language):
        prompts = [f"{split} {language} {i}?" for i in range(11)]
        return [Example(prompt, language, prompt, (prompt[2],), ("a", "v", "s")) for prompt in prompts]
"""
TRAIN = {"steps": 3, "batch_size": 4, "limit": 10, "evaluate_every": 2}


def run(model: Path, store: Path, rank: int | None = None, port: int = 0) -> BaseProcess:
    """A process that runs the study: one of two, or by itself."""
    sharded = {} if rank is None else {"train": {"shard": True}}
    methods = ["none", "lora", {"name": "full", "layers": 1} | sharded]
    folder = store.with_name(f"{store.name} {rank}")
    folder.mkdir()
    tasks = [str(folder.with_name("order.py"))]
    file = write_study(folder / "x.yaml", study_of(model, store, tasks=tasks, methods=methods, train=TRAIN))
    torchrun = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "x",
    }
    return called(folder, "run", str(file), **({} if rank is None else torchrun))


@pytest.mark.slow
@pytest.mark.skipif(DEVICE != "cpu", reason="gloo on CPUs")
def test_two_processes_make_a_study(model: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "order.py").write_text(TASK, encoding="utf-8")
    both = [run(model, tmp_path / "both", rank, port) for rank in range(2)]
    for process in [run(model, tmp_path / "alone"), *both]:
        assert ended(process) == 0, [file.read_text() for file in tmp_path.glob("*/.stderr")]
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

"""A training stopped after any step and taken up again ends in the same bits."""

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from crosstune.config.environment import CHECKPOINT_SECONDS
from crosstune.errors import UserError
from crosstune.files import sha256_of
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.models.tensor_file import read_tensors
from crosstune.outputs.rows import TrainingRow
from crosstune.training.checkpoint import Checkpoint
from crosstune.training.loop import Progress, train
from crosstune.training.settings import TrainSettings
from crosstune.training.state import Trained
from tiny_models import DEVICE, TRAINED, make_method, random_ids

ROWS = [TrainingRow(tuple(random_ids(4 + i % 9, seed=i)), 1 + i % 3) for i in range(22)]
# Three batches an epoch: the five steps go into the second one.
FIVE = TrainSettings(steps=5, batch_size=8, warmup_steps=1, learning_rate=0.01, weight_decay=0.1)
CASES = [*TRAINED, "lora-dropout", "peft-adalora"]


class Killed(Exception):  # noqa: N818 - nothing went wrong
    """The process is gone."""


@pytest.fixture(autouse=True)
def _after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHECKPOINT_SECONDS, "0")


@pytest.fixture
def notes() -> list[str]:
    return []


def go(
    lm: Any,
    case: str,
    settings: TrainSettings,
    checkpoint: Checkpoint | None = None,
    stop_after: int | None = None,
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Train; what is saved of the method, and everything told of the training but its time."""
    method = make_method(case)
    method.attach(lm, seed=1)

    def dev_score() -> float:
        torch.rand(3)  # evaluation may draw
        first = next(iter(method.parameters().values()))
        return round(float(first.detach().double().sum()) * 1e4) % 7 / 7

    def tell(progress: Progress) -> None:
        # Stopped in the step behind: the one that is told is in the checkpoint only if it was written.
        if stop_after is not None and progress.step == stop_after + 1:
            raise Killed

    torch.rand(11)
    scored = dev_score if settings.evaluate_every else None
    try:
        result = train(method, ROWS, settings, 3, scored, tell, None, checkpoint)
        state = {name: x.detach().clone() for name, x in method.state().items()}
    finally:
        method.detach()
    told = {name: value for name, value in vars(result).items() if name != "seconds"}
    return state, told


def same(a: tuple[dict[str, torch.Tensor], Any], b: tuple[dict[str, torch.Tensor], Any]) -> None:
    assert set(a[0]) == set(b[0])
    if DEVICE != "cpu":  # a GPU adds in an order of its own: the same to rounding
        assert len(a[1]["curve"]) == len(b[1]["curve"])
        return torch.testing.assert_close(a[0], b[0], rtol=0, atol=1e-4)
    assert a[1] == b[1]
    assert all(torch.equal(a[0][name], b[0][name]) for name in a[0])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("every", [None, 1], ids=["last", "best"])
def test_stopped_after_any_step(
    tiny_lm: Callable[..., Any], tmp_path: Path, notes: list[str], case: str, every: int | None
) -> None:
    settings = FIVE.model_copy(update={"evaluate_every": every})
    lm = tiny_lm("gemma3", torch.bfloat16 if make_method(case).trains_weights else torch.float32)
    wanted = go(lm, case, settings)
    for step in range(1, 5):
        folder = tmp_path / str(step)
        folder.mkdir()
        with pytest.raises(Killed):
            go(lm, case, settings, Checkpoint(folder, "x", notes.append), stop_after=step)
        same(go(lm, case, settings, Checkpoint(folder, "x", notes.append)), wanted)
        assert notes.pop() == f"  training resumes after step {step}"
    # Of a finished one nothing is done again.
    same(go(lm, case, settings, Checkpoint(folder, "x", notes.append), stop_after=-1), wanted)
    assert {file.name[:20] for file in folder.iterdir()} == {"checkpoint-000000005"}


def test_finished_weights_are_written_once(
    tiny_lm: Callable[..., Any], tmp_path: Path, notes: list[str]
) -> None:
    """In the model's dtype and not as fp32 copies: the file can be the run's."""
    checkpoint = Checkpoint(tmp_path, "x", notes.append)
    state, _ = go(tiny_lm("llama", torch.bfloat16), "full", FIVE, checkpoint)
    kept = checkpoint.finished
    assert kept is not None
    assert kept.taken_to(tmp_path / "weights.safetensors") == sha256_of(kept.path)
    assert kept.path.samefile(tmp_path / "weights.safetensors")
    written = read_tensors(kept.path, torch.device("cpu"))
    assert written.keys() == state.keys()
    assert all(x.dtype == torch.bfloat16 and torch.equal(x, state[name].cpu()) for name, x in written.items())


def test_stopped_again_and_again(tiny_lm: Callable[..., Any], tmp_path: Path, notes: list[str]) -> None:
    lm, settings = tiny_lm("llama"), FIVE.model_copy(update={"evaluate_every": 2})
    for step in (1, 2, 4):
        with pytest.raises(Killed):
            go(lm, "lora-dropout", settings, Checkpoint(tmp_path, "x", notes.append), stop_after=step)
    same(
        go(lm, "lora-dropout", settings, Checkpoint(tmp_path, "x", notes.append)),
        go(lm, "lora-dropout", settings),
    )


def test_patience_is_counted_over_a_stop(
    tiny_lm: Callable[..., Any], tmp_path: Path, notes: list[str]
) -> None:
    lm = tiny_lm("llama")
    settings = FIVE.model_copy(update={"steps": 9, "evaluate_every": 1, "patience": 2})
    wanted = go(lm, "prefix-hidden", settings)
    ends = wanted[1]["steps"]
    assert ends < 9
    for step in range(1, ends):
        folder = tmp_path / str(step)
        folder.mkdir()
        with pytest.raises(Killed):
            go(lm, "prefix-hidden", settings, Checkpoint(folder, "x", notes.append), stop_after=step)
        same(go(lm, "prefix-hidden", settings, Checkpoint(folder, "x", notes.append)), wanted)


def stopped_at_two(lm: Any, folder: Path, notes: list[str]) -> Path:
    with pytest.raises(Killed):
        go(lm, "lora", FIVE, Checkpoint(folder, "x", notes.append), stop_after=2)
    return next(folder.glob("*.safetensors"))


@pytest.mark.parametrize("harm", ["a bit", "cut", "empty", "half written"])
def test_a_damaged_checkpoint_is_not_used(
    tiny_lm: Callable[..., Any], tmp_path: Path, notes: list[str], harm: str
) -> None:
    lm = tiny_lm("llama")
    file = stopped_at_two(lm, tmp_path, notes)
    content = bytearray(file.read_bytes())
    if harm == "a bit":
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
    elif harm == "half written":
        file.rename(tmp_path / ".tmp-checkpoint-1-aa")
        (tmp_path / ".tmpXyZ").write_bytes(content)  # safetensors' own
    else:
        file.write_bytes(content[: len(content) // 3 if harm == "cut" else 0])
    same(go(lm, "lora", FIVE, Checkpoint(tmp_path, "x", notes.append)), go(lm, "lora", FIVE))
    assert {file.name[:20] for file in tmp_path.iterdir()} == {"checkpoint-000000005"}
    assert notes == ([] if harm == "half written" else [f"  {file.name} is damaged and is not used"])


def test_a_checkpoint_of_something_else_is_not_used(
    tiny_lm: Callable[..., Any], tmp_path: Path, notes: list[str]
) -> None:
    lm = tiny_lm("llama")
    stopped_at_two(lm, tmp_path, notes)
    same(go(lm, "lora", FIVE, Checkpoint(tmp_path, "y", notes.append)), go(lm, "lora", FIVE))
    assert len(notes) == 1
    assert "is not used: trained from the start" in notes[0]


def test_a_folder_that_takes_nothing_does_not_end_a_training(
    tiny_lm: Callable[..., Any], tmp_path: Path, notes: list[str]
) -> None:
    lm = tiny_lm("llama")
    same(go(lm, "lora", FIVE, Checkpoint(tmp_path / "gone", "x", notes.append)), go(lm, "lora", FIVE))
    assert len(notes) == 1
    assert notes[0].startswith("  no checkpoint can be written (No such file or directory")


def test_a_full_disk_does_not_end_a_training(
    tiny_lm: Callable[..., Any], tmp_path: Path, notes: list[str]
) -> None:
    lm = tiny_lm("llama")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        found = go(lm, "lora", FIVE, Checkpoint(tmp_path, "x", notes.append))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    same(found, go(lm, "lora", FIVE))
    assert len(notes) == 1
    assert notes[0].startswith("  no checkpoint can be written (File too large); training continues")
    assert list(tmp_path.iterdir()) == []


def test_limits_and_counts_come_back(tiny_lm: Callable[..., Any], tmp_path: Path, notes: list[str]) -> None:
    lm, passes, counted = tiny_lm("llama"), TokenLimit(64), []
    passes.limit, passes.halvings = 16, 2
    with pytest.raises(Killed):
        go(lm, "lora", FIVE, Checkpoint(tmp_path, "x", notes.append, [passes]), stop_after=2)
    fresh = TokenLimit(64)
    checkpoint = Checkpoint(tmp_path, "x", notes.append, [fresh], lambda: counted.append(1))
    assert checkpoint.load() is not None
    assert (fresh.limit, fresh.halvings, counted) == (16, 2, [1])


def test_seconds_between_checkpoints(
    tiny_lm: Callable[..., Any], tmp_path: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CHECKPOINT_SECONDS, "3600")
    checkpoint = Checkpoint(tmp_path, "x", notes.append)
    with pytest.raises(Killed):
        go(tiny_lm("llama"), "lora", FIVE, checkpoint, stop_after=4)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv(CHECKPOINT_SECONDS, "often")
    with pytest.raises(UserError, match="often: not a number of seconds"):
        Checkpoint(tmp_path, "x", notes.append)


def test_a_checkpoint_holds_no_pickle(tiny_lm: Callable[..., Any], tmp_path: Path, notes: list[str]) -> None:
    file = stopped_at_two(tiny_lm("llama"), tmp_path, notes)
    found = Checkpoint(tmp_path, "x", notes.append).load()
    assert found is not None
    assert Trained(**found.facts["trained"]).steps == 2
    assert file.read_bytes()[8:9] == b"{"  # safetensors: a length, then JSON

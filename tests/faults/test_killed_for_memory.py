"""A process that is killed for its memory leaves no error: its run goes on with fewer tokens at once."""

import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from crosstune.errors import UserError
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.running.resume.attempts import DEATHS, attempt
from crosstune.store import failures, store
from crosstune.store.audit import audit
from crosstune.study.spec import Study
from other_process import ended, killed_beyond, log_of, start
from saved_model import study_of

Outcome = Callable[[str, str], None]


def keep_dying(model: Path, folder: Path, tokens: int, batch_size: int = 8) -> tuple[int, int, str]:
    """How many processes died where none survives a larger pass, how the last ended, and what was said."""
    study = Study(
        **study_of(
            model, folder / f"at-{tokens}", tasks=["number-words"], methods=["lora"], languages=["de"],
            train={"steps": 4, "batch_size": batch_size, "evaluate_every": 2, "dev_limit": 4},
            evaluate={"limit": 16, "max_answer_tokens": 4},
        )
    )  # fmt: skip
    deaths = 0
    while (code := ended(start(study, partial(killed_beyond, tokens)))) == -signal.SIGKILL and deaths < 60:
        deaths += 1
    return deaths, code, log_of(study.folder).read_text(encoding="utf-8")


def test_a_pass_that_kills_is_halved(model: Path, tmp_path: Path, outcome: Outcome) -> None:
    assert keep_dying(model, tmp_path, 1_000_000)[:2] == (0, 0)
    died, code, log = keep_dying(model, tmp_path, 520)
    assert code == 0
    lines = [line for line in log.splitlines() if f"killed {DEATHS} times in" in line]
    assert [line.partition(", as when")[0].rpartition(" ")[2] for line in lines] == ["training", "evaluation"]
    assert all("512 tokens at once from here on" in line for line in lines)
    # The first death in evaluation came behind a training that the others did not have to repeat.
    assert died == 2 * DEATHS + 1
    ours, reference = (store.read_runs(tmp_path / name) for name in ("at-520", "at-1000000"))
    for actual, other in zip(ours, reference, strict=True):
        assert actual.cost.halvings > other.cost.halvings == 0
        assert actual.cost.steps == other.cost.steps, "the same effective batch"
        one, two = (tmp_path / name / actual.id for name in ("at-520", "at-1000000"))
        if (two / store.WEIGHTS).exists():
            expected = load_file(two / store.WEIGHTS)
            for name, tensor in load_file(one / store.WEIGHTS).items():
                torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-5)
    audited = audit(tmp_path / "at-520")
    assert (audited.problems, audited.notes) == ((), ())
    outcome(
        "processes killed for memory",
        f"{died} processes died in batches larger than memory; tokens per pass halved after "
        f"{DEATHS} deaths in the same pass; the study then finished with the same steps",
    )


def test_one_example_that_kills_fails_its_run_alone(model: Path, tmp_path: Path) -> None:
    died, code, log = keep_dying(model, tmp_path, 3, batch_size=1)
    assert (died, code) == (DEATHS, 2)
    (failure,) = failures.read(tmp_path / "at-3").values()
    assert "process was killed 3 times in training on one example of" in failure.error
    assert "1 of 1 runs failed" in log


def go(
    folder: Path, die_in: int | None, position: str = "a", made_for: str = "x"
) -> tuple[list[int], list[str]]:
    """Six passes by one process, killed in one of them; the limit at each, and what was said."""
    messages: list[str] = []
    passes, other = TokenLimit(1024, doing="training"), TokenLimit(512)
    limits, left = [], folder.parent / "left"
    with attempt(folder, made_for, position, (passes, other), messages.append):
        for number in range(1, 7):
            passes.begin(4, min(64, passes.limit))
            limits.append(passes.limit)
            if number == die_in:
                shutil.copyfile(folder / "pass.json", left)  # what a killed process leaves
                break
    assert not (folder / "pass.json").exists(), "taken away at every other end"
    assert other.limit == 512
    if die_in is not None:
        left.rename(folder / "pass.json")
    return limits, messages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_three_deaths_in_the_same_pass(folder: Path) -> None:
    for _ in range(DEATHS):
        assert go(folder, 3) == ([1024] * 3, [])
    limits, log = go(folder, 3)
    assert limits == [32] * 3, "a pass of 64 tokens has to be cut"
    assert log == [
        "  this run's process was killed 3 times in training, as when memory runs out: "
        "32 tokens at once from here on"
    ]
    for _ in range(DEATHS - 1):
        assert go(folder, 3) == ([32] * 3, []), "the lower limit stays"
    assert go(folder, None)[0] == [16] * 6
    assert go(folder, None) == ([1024] * 6, []), "a run that ended leaves nothing"


@pytest.mark.parametrize(
    "deaths",
    [[(3, "a"), (3, "a"), (4, "a"), (3, "a"), (3, "a"), (1, "a")], [(3, entry) for entry in "abcd"]],
)
def test_other_kills_change_nothing(folder: Path, deaths: list[tuple[int, str]]) -> None:
    for die_in, position in deaths:
        assert go(folder, die_in, position) == ([1024] * die_in, [])
    assert go(folder, None, deaths[-1][1]) == ([1024] * 6, [])


def test_deaths_of_another_run_or_unreadable_ones_count_for_nothing(folder: Path) -> None:
    for _ in range(DEATHS):
        go(folder, 3)
    assert go(folder, 3, made_for="other data") == ([1024] * 3, [])
    for content in (b"", b"{", b"[]", b'{"position": 1}'):
        (folder / "pass.json").write_bytes(content)
        assert go(folder, None) == ([1024] * 6, [])


def test_an_error_leaves_nothing_to_learn_from(folder: Path) -> None:
    passes = TokenLimit(1024)

    def fail() -> None:
        with attempt(folder, "x", "a", [passes], print):
            passes.begin(4, 64)
            raise UserError("wrong")

    with pytest.raises(UserError, match="wrong"):
        fail()
    assert list(folder.iterdir()) == []
    passes.begin(4, 64)  # nobody watches any more
    assert list(folder.iterdir()) == []


def test_a_limit_from_before_outlasts_a_checkpoint() -> None:
    passes = TokenLimit(1024)
    passes.cap(256, 2)
    passes.cap_below(100)
    assert (passes.limit, passes.halvings) == (64, 4)
    passes.put_back({"limit": 512, "halvings": 1, "tokens": 7})
    assert (passes.limit, passes.halvings, passes.tokens) == (64, 4, 7)
    passes.put_back({"limit": 32, "halvings": 5, "tokens": 9})
    assert (passes.limit, passes.halvings) == (32, 5)

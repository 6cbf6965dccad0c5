"""An evaluation stopped anywhere and taken up again gives the same predictions, to the bit."""

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from crosstune.data.example import Example
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.evaluate import evaluate
from crosstune.outputs.journal import Journal, Stream
from crosstune.outputs.settings import EvaluateSettings
from crosstune.tasks.base import Task
from tiny_models import attach


class Toy(Task):
    """Questions of many lengths, with labels of several tokens or free answers."""

    name, version, summary = "toy", 1, "a test's own"
    split_names = {"test": "-"}  # noqa: RUF012
    max_answer_tokens, stop = 5, ()

    def __init__(self, kind: str) -> None:
        self.kind = kind  # type: ignore[assignment]
        self.metrics = ("accuracy",) if kind == "choice" else ("exact_match",)

    def languages(self) -> list[str]:
        return ["en", "de"]

    def examples(self, split: str, language: str) -> list[Example]:
        choices = ("yes", "the end", "in") if self.kind == "choice" else ()
        numbers = range(11)
        return [
            Example(str(i), language, f"{language} {'the ' * (i * 5 % 11)}{i}:", ("yes",), choices)
            for i in numbers
        ]

    def score(self, example: Example, answer: str) -> dict[str, float]:
        return {self.metrics[0]: float(answer == "yes")}


# Some seven batches of each task; questions that begin alike share them.
SETTINGS = {
    "choice": EvaluateSettings(tokens_per_pass=40),
    "generation": EvaluateSettings(tokens_per_pass=20),
}


class Killed(Exception):  # noqa: N818 - nothing went wrong
    """The process is gone."""


def go(
    lm: Any, kind: str, file: Path | None = None, batches: int | None = None, name: str = "x"
) -> tuple[pl.DataFrame, list[int], list[str], int]:
    """Evaluate; the table, what was told, what was said, and the tokens counted."""
    task, told, notes = Toy(kind), [], []
    passes = TokenLimit(SETTINGS[kind].tokens_per_pass)

    def tell(count: int) -> None:
        told.append(count)
        if batches is not None and len(told) == batches:
            raise Killed

    journal: Journal[Any] | None = None if file is None else Journal(file, name, notes.append)
    examples = {language: task.examples("test", language) for language in task.languages()}
    try:
        stream = Stream(tell=tell, passes=passes, journal=journal)
        return evaluate(lm, task, examples, SETTINGS[kind], **stream), told, notes, passes.tokens
    finally:
        if journal is not None:
            journal.close()


@pytest.fixture
def lm(tiny_lm: Callable[..., Any]) -> Any:
    model = tiny_lm("gemma3")
    attach(model, "prefix-hidden")
    return model


@pytest.mark.parametrize("kind", ["choice", "generation"])
def test_stopped_after_any_batch(lm: Any, tmp_path: Path, kind: str) -> None:
    wanted, told, _, tokens = go(lm, kind)
    assert len(told) > 3
    for batch in range(1, len(told)):
        file = tmp_path / f"{batch}.jsonl"
        with pytest.raises(Killed):
            go(lm, kind, file, batch)
        table, rest, notes, counted = go(lm, kind, file)
        # Floats and all: `equals` is exact.
        assert table.equals(wanted)
        assert rest == [sum(told[:batch]), *told[batch:]]
        assert notes == [f"  evaluation resumes after {sum(told[:batch])} examples"]
        assert counted == tokens


@pytest.mark.parametrize("kind", ["choice", "generation"])
def test_stopped_when_memory_had_run_out(lm: Any, tmp_path: Path, kind: str) -> None:
    """Groups of questions are cut smaller then: what is left is cut the same way again."""

    def too_much(module: Any, args: Any, kwargs: Any) -> None:
        shape = kwargs["inputs_embeds"].shape
        if shape[0] * shape[1] > 70:
            raise torch.OutOfMemoryError("out of memory")

    handle = lm.decoder.register_forward_pre_hook(too_much, with_kwargs=True)
    big = EvaluateSettings(tokens_per_pass=150)
    settings, SETTINGS[kind] = SETTINGS[kind], big
    try:
        wanted, told, _, tokens = go(lm, kind)
        assert len(told) > 1
        for batch in range(1, len(told)):
            file = tmp_path / f"{batch}.jsonl"
            with pytest.raises(Killed):
                go(lm, kind, file, batch)
            table, rest, _, counted = go(lm, kind, file)
            assert table.equals(wanted)
            assert rest == [sum(told[:batch]), *told[batch:]]
            assert counted == tokens
    finally:
        SETTINGS[kind] = settings
        handle.remove()


def test_stopped_again_and_again(lm: Any, tmp_path: Path) -> None:
    file = tmp_path / "j.jsonl"
    with pytest.raises(Killed):
        go(lm, "choice", file, 2)
    # The first thing told is what was there.
    with pytest.raises(Killed):
        go(lm, "choice", file, 2)
    table, told, _, _ = go(lm, "choice", file)
    assert table.equals(go(lm, "choice")[0])
    assert go(lm, "choice", file)[1] == [22]
    assert len(told) == len(go(lm, "choice")[1]) - 2


@pytest.mark.parametrize("harm", ["torn", "a bit", "a bit early", "empty", "no line break"])
def test_torn_and_damaged_lines_are_cut_off(lm: Any, tmp_path: Path, harm: str) -> None:
    file = tmp_path / "j.jsonl"
    with pytest.raises(Killed):
        go(lm, "generation", file, 3)
    content = bytearray(file.read_bytes())
    lines = bytes(content).splitlines(keepends=True)
    assert len(lines) == 4
    if harm.startswith("a bit"):
        content[len(content) - 9 if harm == "a bit" else len(lines[0]) + 12] ^= 1
    cut = {"torn": len(content) - 20, "empty": 0, "no line break": len(content) - 1}.get(harm, len(content))
    file.write_bytes(content[:cut])
    whole = {"a bit early": 0, "empty": 0}.get(harm, 2)
    table, told, _, _ = go(lm, "generation", file)
    wanted, all_told, _, _ = go(lm, "generation")
    assert table.equals(wanted)
    assert told == ([sum(all_told[:whole])] if whole else []) + all_told[whole:]
    # What was cut off is written again: the journal is whole.
    assert go(lm, "generation", file)[1] == [22]


def test_answers_to_something_else_are_not_used(lm: Any, tmp_path: Path) -> None:
    file = tmp_path / "j.jsonl"
    go(lm, "choice", file)
    table, told, notes, _ = go(lm, "choice", file, name="y")
    assert table.equals(go(lm, "choice")[0])
    assert told == go(lm, "choice")[1]
    assert notes == ["  answers of another model, data or version are not used: starting again"]
    assert go(lm, "choice", file, name="y")[1] == [22]


def test_a_full_disk_does_not_end_an_evaluation(lm: Any, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        table, _, notes, _ = go(lm, "choice", tmp_path / "j.jsonl")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert table.equals(go(lm, "choice")[0])
    assert len(notes) == 1
    assert "answers cannot be saved as they are computed (File too large)" in notes[0]
    # What fitted is used.
    assert go(lm, "choice", tmp_path / "j.jsonl")[0].equals(table)

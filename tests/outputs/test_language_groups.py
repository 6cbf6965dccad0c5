"""Parts for some languages: which predictions they change, and an evaluation that goes on behind them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from crosstune.data.example import Example
from crosstune.models.adaptation import Part, Prompt
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.evaluate import evaluate
from crosstune.outputs.journal import Journal, Stream
from crosstune.outputs.settings import EvaluateSettings
from crosstune.tasks.base import Task

LANGUAGES = ["en", "sw", "de", "th"]
CHOICES = ("yes", "the end", "in")


class Toy(Task):
    """The same questions in every language, with labels of several tokens or free answers."""

    name, version, summary = "toy", 1, "a test's own"
    split_names = {"test": "-"}  # noqa: RUF012
    max_answer_tokens, stop = 5, ()

    def __init__(self, kind: str) -> None:
        self.kind = kind  # type: ignore[assignment]
        self.metrics = ("accuracy",) if kind == "choice" else ("exact_match",)

    def languages(self) -> list[str]:
        return LANGUAGES

    def examples(self, split: str, language: str) -> list[Example]:
        choices = CHOICES if self.kind == "choice" else ()
        prompts = [f"{'the ' * (i * 5 % 11)}{i}:" for i in range(9)]
        return [Example(str(i), language, prompt, ("yes",), choices) for i, prompt in enumerate(prompts)]

    def score(self, example: Example, answer: str) -> dict[str, float]:
        return {self.metrics[0]: float(answer == "yes")}


class Killed(Exception):  # noqa: N818 - nothing went wrong
    """The process is gone."""


def add_part(lm: Any, languages: set[str]) -> Part:
    """Keys and values planted in two layers and a soft prompt, for some languages."""
    g, generator = lm.geometry, torch.Generator().manual_seed(7)
    keys, values = torch.randn(2, g.kv_heads, 3, g.head_dim, generator=generator).to(lm.device)
    planted = Prompt(lambda: (keys, 2 * values))
    soft = torch.randn(2, g.hidden, generator=generator).to(lm.device)
    part = Part("by-hand", frozenset(languages), soft_prompt=soft, prompts={0: planted, 2: planted}, shift=3)
    with lm.adaptation.attaching(part):
        pass
    return part


def go(
    lm: Any, kind: str, file: Path | None = None, batches: int | None = None
) -> tuple[pl.DataFrame, list[int], list[str], int]:
    """Evaluate; the table, what was told, the notes, and the tokens counted."""
    told: list[int] = []
    notes: list[str] = []

    def tell(count: int) -> None:
        told.append(count)
        if batches is not None and len(told) == batches:
            raise Killed

    task, tokens = Toy(kind), 40 if kind == "choice" else 20
    passes = TokenLimit(tokens)
    journal: Journal[Any] | None = None if file is None else Journal(file, "x", notes.append)
    examples = {language: task.examples("test", language) for language in LANGUAGES}
    settings = EvaluateSettings(tokens_per_pass=tokens)
    try:
        stream = Stream(tell=tell, passes=passes, journal=journal)
        return evaluate(lm, task, examples, settings, **stream), told, notes, passes.tokens
    finally:
        if journal is not None:
            journal.close()


@pytest.mark.parametrize("kind", ["choice", "generation"])
def test_a_part_changes_its_own_languages_alone(tiny_lm: Callable[..., Any], kind: str) -> None:
    lm = tiny_lm("gemma3")
    plain = go(lm, kind)[0]
    part = add_part(lm, {"sw", "th"})
    table = go(lm, kind)[0]
    assert (
        table["language"].to_list() == plain["language"].to_list() == [x for x in LANGUAGES for _ in range(9)]
    )
    column = "choice_logprobs" if kind == "choice" else "prediction"
    for language in LANGUAGES:
        before, after = (t.filter(pl.col("language") == language)[column].to_list() for t in (plain, table))
        if language in part.languages:
            assert sum(x != y for x, y in zip(before, after, strict=True)) > (6 if kind == "choice" else 1)
        elif kind == "choice":  # other batches: the same up to the last digits
            for x, y in zip(before, after, strict=True):
                assert x == pytest.approx(y, abs=1e-5)
        else:
            assert before == after
    # What Swahili's are is what they are where the part is for all.
    lm.adaptation.detach(part)
    add_part(lm, set(LANGUAGES))
    everywhere = go(lm, kind)[0].filter(pl.col("language") == "sw")[column].to_list()
    for x, y in zip(everywhere, table.filter(pl.col("language") == "sw")[column].to_list(), strict=True):
        assert x == (pytest.approx(y, abs=1e-5) if kind == "choice" else y)


@pytest.mark.parametrize("kind", ["choice", "generation"])
def test_killed_anywhere_and_resumed(tiny_lm: Callable[..., Any], tmp_path: Path, kind: str) -> None:
    lm = tiny_lm("gemma3")
    add_part(lm, {"sw", "th"})
    wanted, told, _, tokens = go(lm, kind, tmp_path / "whole.jsonl")
    first = next(i for i in range(len(told)) if sum(told[: i + 1]) == 18)
    assert 0 < first < len(told) - 2, "both groups have several batches"
    for batch in range(1, len(told)):
        file = tmp_path / f"{batch}.jsonl"
        with pytest.raises(Killed):
            go(lm, kind, file, batch)
        table, rest, notes, counted = go(lm, kind, file)
        assert table.equals(wanted)  # floats and all
        assert sum(rest) == 36
        assert notes == [f"  evaluation resumes after {sum(told[:batch])} examples"]
        assert counted == tokens
        assert lines(file) == lines(tmp_path / "whole.jsonl")


def lines(file: Path) -> list[str]:
    """What a journal holds, without its sums and times."""
    return [line.partition(" ")[2].partition(',"seconds"')[0] for line in file.read_text().splitlines()]


def test_one_pass_where_nothing_is_for_one_language(tiny_lm: Callable[..., Any]) -> None:
    lm = tiny_lm("llama")
    plain, told, _, _ = go(lm, "choice")
    add_part(lm, {"fr"})
    table, again, _, _ = go(lm, "choice")
    assert table.equals(plain)
    assert again == told

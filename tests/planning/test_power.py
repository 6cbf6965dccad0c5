"""Sizes of studies that tell a difference, held against the simulation in docs/statistics.md."""

import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from crosstune.analysis.statistics.spreads import Spreads, measured
from crosstune.cli import main as cli
from crosstune.outputs.settings import EvaluateSettings
from crosstune.planning.plan import PlanGroup
from crosstune.planning.power import (
    Design,
    designs,
    fewest_languages,
    lines,
    of_store,
    passages,
    whole_seconds,
)
from crosstune.study.entries import TaskEntry
from paired_scores import made
from saved_model import study_of, write_study
from simulated import simulate, write_store
from squad_json import CONTEXT, article, qa, squad, write


@pytest.mark.parametrize(
    ("languages", "examples", "seeds", "points"), [(20, 200, 3, 9.0), (20, 200, 5, 6.8), (20, 30, 3, 11.2)]
)
def test_two_methods_are_told_apart_as_simulated(
    languages: int, examples: int, seeds: int, points: float
) -> None:
    tells = Design(2, languages, examples, seeds).tells
    assert tells is not None
    assert 100 * tells == pytest.approx(points, rel=0.2)


def test_more_of_anything_tells_more_and_more_methods_less() -> None:
    base = Design(3, 10, 100, 3).tells
    assert base is not None
    for better in (Design(3, 40, 100, 3), Design(3, 10, 1000, 3), Design(3, 10, 100, 8)):
        assert better.tells is not None
        assert better.tells < base
    assert (Design(10, 10, 100, 8).tells or 1) > (Design(2, 10, 100, 8).tells or 1)


def test_a_plan_names_sizes_that_are_enough_and_no_larger() -> None:
    for design in designs(3, 20, 0.06):
        assert design.tells is not None
        assert design.tells <= 0.06
        fewer = Design(3, 20, design.examples // 4, design.seeds).tells
        assert fewer is None or fewer > 0.06 or design.examples == 30
    assert designs(3, 20, 0.001) == []
    assert fewest_languages(2, 500, 8, 0.06) is not None
    text = lines(3, 20, 100, 3, 0.06, 7200.0)
    assert text[0].startswith("as it stands (3 methods, 20 target languages, 100 examples each, 3 seeds): ")
    assert "answers in all, about " in text[1]
    assert "no difference between methods" in lines(3, 20, 100, 1, 0.06, None)[0]
    assert "not with 20 languages" in lines(3, 20, 100, 3, 0.001, None)[1]


def test_spreads_are_measured_as_they_were_drawn() -> None:
    rng = np.random.default_rng(0)
    languages, n, seeds = 40, 200, 6
    drawn = Spreads(seed=0.04, seed_language=0.03, method_language=0.05, example=0.3, shared=0.1)

    def scores() -> np.ndarray:
        half = 0.5**0.5  # the spreads of examples and languages are those of a difference of two methods
        of_method = rng.normal(0, drawn.method_language * half, (1, languages + 1, 1))
        of_seed = rng.normal(0, drawn.seed, (seeds, 1, 1)) + rng.normal(
            0, drawn.seed_language, (seeds, languages + 1, 1)
        )
        of_example = rng.normal(0, drawn.example * half, (1, languages + 1, n))
        return of_method + of_seed + of_example + rng.normal(0, drawn.shared * half, (1, 1, n))

    comparisons = [made({name: scores() for name in "abc"}) for _ in range(3)]
    found, missing = measured(comparisons)
    assert missing == []
    assert asdict(found) == pytest.approx(asdict(drawn), rel=0.25)
    once, missing = measured([made({name: scores()[:1] for name in "ab"})])
    assert (once.seed, missing) == (Spreads().seed, ["seed", "seed_language"])


def test_the_command_says_what_a_study_can_tell_and_from_which_spreads(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CROSSTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "300")
    methods = ["lora", "prefix", "none"]
    study = study_of(model, tmp_path / "runs", methods=methods, languages=["de", "ru", "sw"], seeds=[0, 1, 2])
    file = str(write_study(tmp_path / "x.yaml", study))
    pilot = write_store(tmp_path / "pilot", *simulate({"prefix": 0.6, "lora": 0.6}, examples=40))

    def plan(*options: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["crosstune", "plan", file, *options])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        streams = capsys.readouterr()
        return code, " ".join((streams.out + streams.err).split())

    code, text = plan("--power", "6")
    assert code == 0
    assert "as it stands (3 methods, 3 target languages, 4 examples each, 3 seeds): " in text
    assert "assumed: seeds move a mean by 2.6 points" in text
    code, text = plan("--power", "6", "--from", str(pilot))
    spreads, origin = of_store(pilot, "cldr-names")
    assert f"{origin}: seeds move a mean by {100 * spreads.seed:.1f} points" in text
    assert "measured in" in text
    assert "on topics: " in text
    code, text = plan("--from", str(pilot))
    assert (code, "--from belongs to --power" in text) == (2, True)
    code, text = plan("--power", "6", "--from", str(tmp_path / "none such"))
    assert (code, "none such" in text) == (2, True)


def test_the_cost_of_a_design_is_that_of_the_whole_study_whatever_is_done() -> None:
    def group(done: int, seconds: float | None, refused: bool = False) -> PlanGroup:
        return PlanGroup("m", "t", "lora", "result", 1, 10, done, 0, seconds, None, None, refused)

    assert whole_seconds([group(0, 100.0), group(8, 20.0), group(0, None, True)]) == 200.0
    assert whole_seconds([group(0, 100.0), group(10, 0.0)]) is None  # what is done is not estimated


def test_questions_on_a_passage_count_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSTUNE_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    entry = TaskEntry.model_validate("xquad")
    assert passages(entry, "de", EvaluateSettings()) is None  # no data here
    articles = [article(*(qa(f"{i}-{k}") for k in range(4)), context=f"{CONTEXT} {i}.") for i in range(5)]
    write(tmp_path, "xquad/xquad.de.json", squad(*articles))
    for settings, wanted in (({}, 5), ({"limit": 7}, 4), ({"per_cluster": 2}, 5)):
        different, line = passages(entry, "de", EvaluateSettings(**settings)) or (0, "")
        assert different == wanted
        assert f"on {wanted} passages, and count as so many" in line
    assert passages(entry, "de", EvaluateSettings(per_cluster=1)) is None  # each on its own

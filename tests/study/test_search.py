"""Learning rates searched on English development data: which runs there are, and which rate is taken."""

from pathlib import Path
from typing import Any

import pytest

from crosstune.config.yaml_file import Document, dump
from crosstune.errors import UserError
from crosstune.study.runs import LAST_STEP, expand
from crosstune.study.spec import Study, read_study
from saved_model import study_of, write_study

RATES = [3e-3, 1e-3]


def study(model: Path, **changes: Any) -> Study:
    settings = {"search": {"learning_rates": RATES}, "seeds": [4, 5], "methods": ["none", "lora"]}
    return Study(**study_of(model, Path("s")) | settings | changes)


def test_a_search_is_one_run_a_rate_before_the_runs_that_wait_for_it(model: Path) -> None:
    none, first, second, *results = expand(study(model))
    assert (none.kind, none.search) == ("result", None)
    assert [(run.kind, run.seed, run.languages) for run in (first, second)] == [("search", 4, ())] * 2
    assert [run.train.learning_rate for run in (first, second)] == RATES
    assert [run.train.evaluate_every for run in (first, second)] == [LAST_STEP] * 2
    assert [(run.kind, run.seed, run.train.learning_rate) for run in results] == [
        ("result", 4, None),
        ("result", 5, None),
    ]
    for run in results:
        assert run.search is not None
        assert run.search.runs == (first.id, second.id)
        assert run.search.rates == tuple(RATES)
        assert run.languages == ("en", "de", "ru")
        assert run.train.evaluate_every is None
    assert len({run.id for run in expand(study(model))}) == 5


def test_a_seed_of_the_search_is_not_a_tested_one(model: Path) -> None:
    spec = study(model, search={"learning_rates": RATES, "seed": 9})
    seeds = [(run.kind, run.seed) for run in expand(spec) if run.method == "lora"]
    assert seeds == [("search", 9), ("search", 9), ("result", 4), ("result", 5)]
    # The first seed given by name is the default by another name.
    by_name = study(model, search={"learning_rates": RATES, "seed": 4})
    assert [run.id for run in expand(by_name)] == [run.id for run in expand(study(model))]


def test_an_own_evaluate_every_is_kept(model: Path) -> None:
    train = {"steps": 4, "batch_size": 4, "evaluate_every": 2}
    assert {run.train.evaluate_every for run in expand(study(model, train=train)) if run.train} == {2}


def test_the_label_is_the_method_and_its_settings(model: Path) -> None:
    assert {run.label for run in expand(study(model))} == {"none", "lora"}


def test_the_same_search_serves_other_studies(model: Path) -> None:
    """The search of a study with more languages, seeds behind the first or names is the same run."""

    def searches(**changes: Any) -> set[str]:
        return {run.id for run in expand(study(model, **changes)) if run.kind == "search"}

    per_cluster = {"limit": 4, "max_answer_tokens": 4, "per_cluster": 1}
    assert searches() == searches(languages=["fr"], seeds=[4], name="other", evaluate=per_cluster)
    assert not searches() & searches(seeds=[5])


def test_other_rates_are_another_result(model: Path) -> None:
    def results(*rates: float) -> set[str]:
        runs = expand(study(model, search={"learning_rates": rates}))
        return {run.id for run in runs if run.search is not None}

    assert results(3e-3, 1e-3) == results(1e-3, 3e-3)
    assert not results(3e-3, 1e-3) & results(3e-3, 1e-4)


@pytest.mark.parametrize(
    ("method", "rates"),
    [
        ("lora", RATES),
        ({"name": "lora", "search": {"learning_rates": [1, 2, 3]}}, [1, 2, 3]),
        ({"name": "lora", "search": False}, []),
        ({"name": "lora", "search": None}, []),
        ({"name": "lora", "train": {"learning_rate": 0.5}}, []),
        ("none", []),
    ],
    ids=str,
)
def test_what_is_said_of_the_method_holds(model: Path, method: Any, rates: list[float]) -> None:
    runs = expand(study(model, methods=[method]))
    assert [run.train.learning_rate for run in runs if run.kind == "search"] == rates
    assert all(run.search is None for run in runs) == (not rates)


def test_a_rate_of_the_task_is_nearer_than_the_studys_search(model: Path) -> None:
    task = {"name": "cldr-names", "train": {"learning_rate": 0.5}}
    assert {run.kind for run in expand(study(model, tasks=[task]))} == {"result"}
    custom = {"name": "lora", "search": {"learning_rates": RATES}}
    assert {run.kind for run in expand(study(model, tasks=[task], methods=[custom]))} == {"result", "search"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {"learning_rates": [1e-3]}}, "two rates or more; for one, give train: {learning_rate"),
        ({"search": {"learning_rates": [1e-3, 2e-3, 1e-3]}}, "0.001 is listed twice"),
        ({"search": {"learning_rates": [1e-3, -1]}}, "greater than 0"),
        ({"search": {"rates": [1e-3, 1]}}, 'unknown key "rates" in search; did you mean "learning_rates"'),
        ({"search": [1e-3, 1]}, "search: give the rates, such as"),
        ({"train": {"learning_rate": 1e-3}}, "give search or train.learning_rate, not both"),
        ({"methods": [{"name": "none", "search": {"learning_rates": RATES}}]}, "none is not trained"),
        (
            {
                "methods": [
                    {"name": "lora", "train": {"learning_rate": 1}, "search": {"learning_rates": RATES}}
                ]
            },
            "method lora: give search or train.learning_rate, not both",
        ),
    ],
    ids=str,
)
def test_searches_that_make_no_sense(
    model: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    spec = study_of(model, Path("s"), search={"learning_rates": RATES}) | changes
    file = tmp_path / "x.yaml"
    file.write_text(dump(spec), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_study(file)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{file}:")


NO_DEV = """\
name: mine
kind: choice
prompt: "{text}:"
choices: [a, b]
answer: label
train: train.csv
test: test.csv
"""


def test_a_task_without_development_data(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(NO_DEV, encoding="utf-8")
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("text,label\nx,a\n", encoding="utf-8")
    spec = study_of(model, Path("s"), search={"learning_rates": RATES}, languages="all")
    file = write_study(tmp_path / "x.yaml", spec | {"tasks": [{"file": "mine.yaml"}]})
    with pytest.raises(UserError, match=r"x\.yaml:\d+: search: task mine has no development data"):
        read_study(file)


def test_a_study_with_searches_reads_back(model: Path) -> None:
    spec = study(model, methods=["lora", {"name": "prefix", "search": False}, {"name": "soft-prompt"}])
    again = Study.model_validate(Document(spec.to_yaml(), "x.yaml").data)
    assert again == spec
    assert [run.id for run in expand(again)] == [run.id for run in expand(spec)]


def test_ids_of_trained_runs_do_not_move() -> None:
    """If this fails, every finished run of every user will be made again: only ever on purpose."""
    spec = Study(
        name="x",
        model="demo:gemma-3-270m",
        device="cpu",
        dtype="float32",
        tasks=["cldr-names"],
        methods=["lora"],
        languages=["de"],
        train={"steps": 3, "limit": 64},
    )
    assert [run.id for run in expand(spec)] == ["47dedddbaa25a6aa"]

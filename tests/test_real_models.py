"""The embedded models, end to end: load, tune in English, score elsewhere, go on where it stopped."""

import polars as pl
import pytest

import crosstune


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "languages"), [("demo:gemma-3-270m", ["de", "sw", "ja"]), ("demo:smollm2-135m", ["de", "fr"])]
)
def test_a_study_on_a_real_model(model, languages, tmp_path):
    study = crosstune.Study(
        name="real",
        model=model,
        tasks=["cldr-names"],
        methods=["none", "lora"],
        languages=languages,
        train={"steps": 30, "batch_size": 8, "warmup_steps": 4},
        evaluate={"limit": 16},
        store=tmp_path / "runs",
    )
    results = crosstune.run(study)
    none, lora = (next(r for r in results.runs if r.method.name == name) for name in ("none", "lora"))
    losses = [point["loss"] for point in lora.curve]
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])  # it learns
    english = results.scores.filter(pl.col("is_source"))
    assert english["score"].max() > 0.4  # of four kinds
    assert results.predictions.height == 2 * 16 * (1 + len(languages))
    assert results.predictions.group_by("run", "language").len()["len"].unique().to_list() == [16]
    assert set(none.languages) == {"en", *languages}
    again = crosstune.run(study)
    assert again.predictions.equals(results.predictions)
    assert {r.finished for r in again.runs} == {r.finished for r in results.runs}  # nothing was redone
    assert crosstune.report(tmp_path / "runs").stat().st_size > 500_000

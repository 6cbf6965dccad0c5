"""The embedded models, end to end: load, tune in English, score elsewhere, go on where it stopped."""

import os
from pathlib import Path

import polars as pl
import pytest
import torch

import crosstune
from crosstune.models.attention.choose import BatchForm, lay_out
from crosstune.models.family import auto_class
from crosstune.models.loading.demo import DEMOS, prepare
from crosstune.models.loading.load import load
from tiny_models import near

DATA = Path(os.environ.get("CROSSTUNE_DATA") or Path(__file__).parents[1] / "../shared/data").resolve()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "language", "steps", "batch_size"),
    [("demo:gemma-3-270m", "ja", 20, 4), ("demo:smollm2-135m", "de", 30, 8)],
)
def test_a_study_on_a_real_model(model, language, steps, batch_size, tmp_path):
    study = crosstune.Study(
        name="real",
        model=model,
        tasks=["cldr-names"],
        methods=["none", "lora"],
        languages=[language],
        train={"steps": steps, "batch_size": batch_size, "warmup_steps": 4},
        evaluate={"limit": 16},
        store=tmp_path / "runs",
    )
    results = crosstune.run(study)
    none, lora = (next(r for r in results.runs if r.method.name == name) for name in ("none", "lora"))
    losses = [point["loss"] for point in lora.curve]
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])  # it learns
    english = results.scores.filter(pl.col("is_source"))
    assert english["score"].max() > 0.4  # of four kinds
    assert results.predictions.height == 2 * 16 * 2
    assert results.predictions.group_by("run", "language").len()["len"].unique().to_list() == [16]
    assert set(none.languages) == {"en", language}
    again = crosstune.run(study)
    assert again.predictions.equals(results.predictions)
    assert {r.finished for r in again.runs} == {r.finished for r in results.runs}  # nothing was redone
    assert crosstune.report(tmp_path / "runs").stat().st_size > 500_000


@pytest.mark.slow
@pytest.mark.parametrize("name", DEMOS)
def test_logits_of_real_models_are_those_of_transformers(name):
    """Of an encoder its states; in padded rows and in one line, against eager attention text by text."""
    texts = ["A bridge was closed.", "Daraja lilifungwa kwa sababu ya mvua kubwa iliyonyesha jana.", "是"]
    lm = load(name, device="cpu", dtype="float32")
    kind, how = auto_class(lm.model.config), {"attn_implementation": "eager", "dtype": torch.float32}
    plain = kind.from_pretrained(prepare(name), **how).eval()
    ids = lm.tokens.prompts(texts)
    with torch.inference_mode():
        outs = [plain(input_ids=torch.tensor([text])) for text in ids]
        for form in (BatchForm.PADDED, BatchForm.PADDING_FREE):
            two_way = bool(lm.geometry.encoder)
            placed = lay_out(form, ids, lm.pad_id, lm.device, balance=1e9, two_way=two_way)
            states = lm.hidden(placed.ids, placed.layout).flatten(0, 1)
            for start, text, out in zip(placed.starts, ids, outs, strict=True):
                ours = states[start : start + len(text)]
                if lm.geometry.encoder:
                    near(f"states of {name}", ours, out.last_hidden_state[0], 1e-4)
                else:
                    near(f"logits of {name}", lm.logits(ours), out.logits[0], 1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "tatoeba").is_dir(), reason=f"Tatoeba is not under {DATA}")
def test_a_real_encoder_finds_translations(tmp_path):
    """All pairs. Of the first 400 the published figures are sw 73.3 and eu 64.8."""
    study = crosstune.Study(
        name="real",
        model="demo:e5-small",
        tasks=[{"name": "tatoeba", "data": str(DATA), "prefix": "query: "}],
        methods=["none"],
        languages=["sw", "eu"],
        store=tmp_path / "runs",
    )
    scores = crosstune.run(study).scores
    assert dict(scores.select("language", "score").iter_rows()) == pytest.approx(
        {"sw": 0.733, "eu": 0.586}, abs=0.015
    )


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "udpos").is_dir(), reason=f"UDPOS is not under {DATA}")
def test_a_real_encoder_learns_tags(tmp_path):
    study = crosstune.Study(
        name="real",
        model="demo:e5-small",
        tasks=[{"name": "udpos", "data": str(DATA)}],
        methods=[{"name": "lora", "train": {"learning_rate": 3e-3}}],
        languages=["de", "th"],
        train={"steps": 60, "batch_size": 8},
        evaluate={"limit": 50},
        store=tmp_path / "runs",
    )
    scores = dict(crosstune.run(study).scores.select("language", "score").iter_rows())
    assert scores["en"] > 0.7
    assert scores["de"] > 0.6
    assert scores["th"] > 0.3

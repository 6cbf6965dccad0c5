"""Whole runs on an encoder: a head trained and saved with its method, and what is refused."""

from pathlib import Path

import pytest

from crosstune.api import run
from crosstune.errors import UserError
from crosstune.models.tensor_file import read_tensors
from crosstune.running.predict import predict
from crosstune.store import store
from crosstune.study.spec import read_study
from saved_model import study_of, write_study
from tiny_encoders import save_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


def test_heads_are_trained_saved_and_asked_again(encoder: Path, tmp_path: Path) -> None:
    methods = ["probe", {"name": "prefix", "length": 2}, "soft-prompt"]
    asked = {"evaluate": {"limit": 3, "pooling": "mean"}, "train": {"steps": 2, "batch_size": 4}}
    study = read_study(
        write_study(tmp_path / "s.yaml", study_of(encoder, tmp_path / "store", methods=methods) | asked)
    )
    run(study)
    for folder in sorted((tmp_path / "store").glob("*/run.json")):
        record = store.read_run(folder.parent)
        weights = read_tensors(folder.parent / store.WEIGHTS, "cpu")
        # Four classes: dense and tanh, then linear.
        assert record.head_parameters == 64 * 64 + 64 + 64 * 4 + 4
        own = {name: x for name, x in weights.items() if not name.startswith("head.")}
        assert record.trained_parameters == sum(x.numel() for x in own.values())
        first = store.read_predictions(tmp_path / "store", [record]).row(0, named=True)
        assert record.evaluate["pooling"] == "mean"
        assert len(first["choice_logprobs"]) == 4
        prompt = "A name.\nKind:"
        again = [predict(folder.parent, prompt, raw=True).choices for _ in range(2)]
        assert again[0] == again[1]
        assert sum(p for _, p in again[0]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": ["none"]}, "told by a head, which method none does not train"),
        ({"methods": ["few-shot"]}, "an encoder learns nothing from exemplars"),
        ({"methods": ["lora"], "tasks": ["number-words"]}, "an encoder writes no answers"),
        ({"methods": ["probe"], "evaluate": {"head": False}}, "has no head to train"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_loaded(
    encoder, tmp_path, changes, said
) -> None:
    file = write_study(tmp_path / "s.yaml", study_of(encoder, tmp_path / "store") | changes)
    with pytest.raises(UserError, match=said) as raised:
        read_study(file)
    assert str(raised.value).startswith(f"{file}:")
    assert "\n" not in str(raised.value)


ENDINGS = """\
name: endings
kind: choice
prompt: "{text}"
choices: ["{first}", "{second}"]
answer: right
answer_is: index1
train: "{code}.csv"
test: "{code}.csv"
"""


def test_choices_that_differ_are_scored_one_by_one(encoder: Path, tmp_path: Path) -> None:
    """A text of each choice, in training, evaluation and when the run is asked again."""
    (tmp_path / "endings.yaml").write_text(ENDINGS)
    lines = [f"It began {i} times,it ended,we left {i},{1 + i % 2}\n" for i in range(6)]
    for code in ("en", "de"):
        (tmp_path / f"{code}.csv").write_text("text,first,second,right\n" + "".join(lines))
    changes = {"tasks": [{"file": "endings.yaml"}], "languages": ["de"], "methods": ["lora"]}
    changes |= {"evaluate": {"limit": 6, "tokens_per_pass": 64}, "train": {"steps": 3, "batch_size": 4}}
    study = read_study(write_study(tmp_path / "s.yaml", study_of(encoder, tmp_path / "store") | changes))
    run(study)
    (folder,) = (file.parent for file in (tmp_path / "store").glob("*/run.json"))
    record = store.read_run(folder)
    assert record.head_parameters == 64 * 64 + 64 + 64 + 1
    table = store.read_predictions(tmp_path / "store", [record])
    assert table.height == 12
    for row in table.iter_rows(named=True):
        assert len(row["choice_logprobs"]) == 2
        best = max(range(2), key=row["choice_logprobs"].__getitem__)
        assert row["prediction"].startswith(("it ended", "we left ")[best])
    told = predict(folder, "It began", raw=True, choices=["it ended", "we left", "no"]).choices
    assert sum(p for _, p in told) == pytest.approx(1)

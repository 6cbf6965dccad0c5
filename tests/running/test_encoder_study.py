"""Whole runs on an encoder: a head trained and saved with its method, and what is refused."""

import json
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


def test_language_adapters_are_trained_at_masks(encoder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    for code, line in {"en": "The hen sat on a hat.", "de": "Die Henne sitzt auf dem Hut."}.items():
        (text / f"{code}.txt").write_text(line, encoding="utf-8")
    mad_x = {"name": "mad-x", "text": str(text), "text_train": {"steps": 2}, "missing": "none"}
    asked = {"evaluate": {"limit": 2}, "train": {"steps": 2, "batch_size": 4}}
    study = study_of(encoder, tmp_path / "store", methods=[mad_x]) | asked
    run(read_study(write_study(tmp_path / "s.yaml", study)))
    records = store.read_runs(tmp_path / "store", kind=None)
    assert [record.kind for record in records] == ["stage", "stage", "result"]
    losses = [point["loss"] for record in records[:2] for point in record.curve]
    assert len(losses) == 4
    assert all(3 < loss < 30 for loss in losses), losses


def test_an_encoder_points_at_answers_in_contexts_of_any_length(encoder: Path, tmp_path: Path) -> None:
    """XQuAD on 64 positions: contexts of 300 letters take windows, in training and in the test."""
    context = " ".join(f"word{i}" for i in range(50))
    answer = {"text": "word7", "answer_start": context.index("word7 ")}
    for place in ("squad/train-v1.1.json", "xquad/xquad.en.json", "xquad/xquad.de.json"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        articles = [
            {
                "title": str(i),
                "paragraphs": [
                    {"context": context, "qas": [{"id": f"{i}", "question": "Which?", "answers": [answer]}]}
                ],
            }
            for i in range(3)
        ]
        (tmp_path / place).write_text(json.dumps({"data": articles}), encoding="utf-8")
    asked = {
        "tasks": [{"name": "xquad", "data": str(tmp_path)}],
        "languages": ["en", "de"],
        "evaluate": {"max_answer_tokens": 9},
        "train": {"steps": 2, "batch_size": 4, "learning_rate": 0.1},
    }
    study = study_of(encoder, tmp_path / "store", methods=["bottleneck"]) | asked
    run(read_study(write_study(tmp_path / "s.yaml", study)))
    (record,) = store.read_runs(tmp_path / "store")
    assert record.head_parameters == 2 * 64 + 2
    table = store.read_predictions(tmp_path / "store", [record])
    assert table.height == 6
    assert all(0 < len(told) <= 9 and told in context for told in table["prediction"])

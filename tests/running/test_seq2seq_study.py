"""Whole runs on encoder-decoders: choices and written answers, tokens of languages, and what is refused."""

from pathlib import Path

import pytest

from crosstune.api import run
from crosstune.errors import UserError
from crosstune.running.predict import predict
from crosstune.store import store
from crosstune.study.spec import read_study
from saved_model import study_of, write_study
from tiny_encoder_decoders import save_seq2seq, seq2seq_tokenizer

TOKENS = ["en_XX", "de_DE", "ru_RU"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_seq2seq(tmp_path_factory.mktemp("seq2seq") / "tiny", "mt5")


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seq2seq") / "tagged"
    return save_seq2seq(folder, "mbart", seq2seq_tokenizer(TOKENS))


def records(folder: Path) -> dict[str, list]:
    found: dict[str, list] = {}
    for file in sorted(folder.glob("*/run.json")):
        record = store.read_run(file.parent)
        found.setdefault(record.method.name, []).append((file.parent, record))
    return found


def test_methods_on_choices_and_written_answers(plain: Path, tmp_path: Path) -> None:
    methods = [{"name": "few-shot", "k": 2}, "full"]
    tasks = ["cldr-names", "number-words"]
    study = study_of(plain, tmp_path / "store", methods=methods, tasks=tasks)
    run(read_study(write_study(tmp_path / "s.yaml", study)))
    made = records(tmp_path / "store")
    assert {name: len(runs) for name, runs in made.items()} == dict.fromkeys(made, 2)
    assert len(made) == 2
    for folder, record in (one for runs in made.values() for one in runs):
        table = store.read_predictions(tmp_path / "store", [record])
        assert set(table["language"]) == {"en", "de", "ru"}
        assert record.target_language_tokens is None
        if record.train is not None:
            assert [point["step"] for point in record.curve] == [1, 2, 3]
        if record.task.kind == "choice":
            again = [predict(folder, "A name.\nKind:", raw=True).choices for _ in range(2)]
            assert again[0] == again[1]


def test_tokens_of_languages_are_forced_recorded_and_asked_for(tagged: Path, tmp_path: Path) -> None:
    study = study_of(tagged, tmp_path / "store", methods=["none"], tasks=["number-words"])
    run(read_study(write_study(tmp_path / "s.yaml", study)))
    off = study | {"evaluate": study["evaluate"] | {"target_language_token": False}}
    run(read_study(write_study(tmp_path / "off.yaml", off)))
    stands_in = off | {"languages": ["fi"]}
    stands_in["evaluate"] = study["evaluate"] | {"target_language_token": "de_DE"}
    run(read_study(write_study(tmp_path / "in.yaml", stands_in)))
    said = [record.target_language_tokens for _, record in records(tmp_path / "store")["none"]]
    forced = {"en": "en_XX", "de": "de_DE", "ru": "ru_RU"}
    assert sorted(said, key=str) == sorted([None, forced, {"en": "en_XX", "fi": "de_DE"}], key=str)
    unknown = read_study(write_study(tmp_path / "no.yaml", study | {"languages": ["fi"]}))
    with pytest.raises(UserError) as raised:
        run(unknown)
    assert "has no token for fi" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": ["probe"]}, "without a head"),
        ({"evaluate": {"head": True}}, "without a head"),
        ({"tasks": ["tatoeba"], "methods": ["none"]}, "without a head"),
        ({"methods": [{"name": "mad-x", "text": "udhr"}]}, "does not learn from text token by token"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_loaded(
    plain, tmp_path, changes, said
) -> None:
    file = write_study(tmp_path / "s.yaml", study_of(plain, tmp_path / "store") | changes)
    with pytest.raises(UserError, match=said) as raised:
        read_study(file)
    assert "\n" not in str(raised.value)


def test_tokens_of_languages_are_for_encoder_decoders_alone(tmp_path, model) -> None:
    setting = {"target_language_token": "de_DE"}
    file = write_study(tmp_path / "s.yaml", study_of(model, tmp_path / "store") | {"evaluate": setting})
    with pytest.raises(UserError, match="is for encoder-decoders"):
        read_study(file)

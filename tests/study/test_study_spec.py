"""What a study file may say: every mistake is one line that names the file, the line and what to do."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from crosstune.config.yaml_file import Document
from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.study.spec import Study, read_study

GOOD = """\
name: demo
model: demo:gemma-3-270m
tasks: [cldr-names, {name: number-words, train: {steps: 5}}]
methods:
  - none
  - {name: few-shot, k: 4}
  - {name: prefix, space: kv, length: 10, train: {learning_rate: 3e-2}}
  - lora
languages: [en, de, no]
train: {steps: 60, batch_size: 16}
evaluate: {limit: 50}
"""

MISTAKES = [
    ("length: 10", "lenght: 10", '7: unknown key "lenght" in method prefix; did you mean "length"?'),
    ("length: 10", "length: 0", "7: method prefix: length should be greater than or equal to 1; found 0"),
    ("length: 10", "length: true", "7: method prefix: length cannot be true"),
    (
        "length: 10",
        "layers: 30",
        "7: method prefix on demo:gemma-3-270m: layers: 30 asked for, but the model has 18; give 1 to 18",
    ),
    ("- lora", "- lorra", '8: unknown method "lorra"; did you mean "lora"?'),
    ("- lora", "- {rank: 2}", '8: a method with settings needs its name: "- {name: none, ...}"'),
    ("- lora", "- {name: lora, rank: 4.5}", "8: method lora: rank should be a whole number; found 4.5"),
    ("- lora", "- lora\n  - lora", "9: methods: lora is listed twice with the same settings"),
    ("- none", "- {name: none, k: 1}", '5: unknown key "k" in method none; it has no settings'),
    ("cldr-names,", "cldr-name,", '3: unknown task "cldr-name"; did you mean "cldr-names"?'),
    ("[en, de, no]", "[en, de, qq]", "9: languages: unknown language 'qq'; did you mean \"sq\"?"),
    (
        "[en, de, no]",
        "\n- en\n- kab\n",
        '11: task cldr-names has no language "kab"; it has 125; did you mean "ka"?',
    ),
    (
        "[en, de, no]",
        "{cldr-names: all}",
        '9: languages: task "number-words" is missing; add "number-words: all"',
    ),
    ("[en, de, no]", "17", '9: languages: give "all" or a list of codes such as [en, de, sw]'),
    (
        "{limit: 50}",
        "{limit: 50, piece: last}",
        "11: evaluate.piece has no effect here: it is for tags told by a head; take it out",
    ),
    (
        "{limit: 50}",
        "{pooling: mean}",  # of a causal model without a head
        "11: evaluate.pooling has no effect here: it is for retrieval, and choices told by a head; "
        "take it out",
    ),
    (
        "{steps: 5}",
        "{steps: 5}, evaluate: {head: true}",
        "3: evaluate.head has no effect here: it is for choices and tags; take it out",
    ),
    ("steps: 60", "steps: -1", "10: train: steps should be greater than or equal to 1; found -1"),
    ("steps: 60", "step: 60", '10: unknown key "step" in train; did you mean "steps"?'),
    ("{steps: 5}", "{steps: 0}", "3: train: steps should be greater than or equal to 1; found 0"),
    ("{steps: 5}", "{patience: 3}", "3: train: patience needs evaluate_every"),
    (
        "learning_rate: 3e-2",
        "learning_rate: -3e-2",
        "7: train: learning_rate should be greater than 0; found -0.03",
    ),
    ("limit: 50", "limits: 50", '11: unknown key "limits" in evaluate; did you mean "limit"?'),
    ("name: demo", "name: ../demo", '1: name: "../demo" should be letters, digits, "_", "-" and "." only'),
    ("name: demo", "nam: demo", '1: unknown key "nam" in a study; did you mean "name"?'),
    (
        "demo:gemma-3-270m",
        "demo:gemma",
        '2: unknown demo model "demo:gemma"; did you mean "demo:gemma-3-270m"?',
    ),
    ("demo:gemma-3-270m", "./nowhere", '2: model: no folder "./nowhere" with a config.json'),
    (
        "demo:gemma-3-270m",
        "llama-3.1-8b",
        '2: model: "llama-3.1-8b" is no model folder, hub id or demo model; give its hub id, '
        "meta-llama/Llama-3.1-8B",
    ),
    ("model: demo:gemma-3-270m\n", "", '1: a study needs "model:", such as demo:gemma-3-270m'),
    ("limit: 50}", "limit: 50}\nseeds: [0, x]", '12: seeds.1 should be a whole number; found "x"'),
    ("limit: 50}", "limit: 50}\nstorr: x", '12: unknown key "storr" in a study; did you mean "store"?'),
    ("limit: 50}", "limit: 50}\nname: again", '12: key "name" again; first on line 1'),
]


@pytest.mark.parametrize(("right", "wrong", "message"), MISTAKES, ids=[wrong for _, wrong, _ in MISTAKES])
def test_a_mistake_is_one_line(tmp_path: Path, right: str, wrong: str, message: str) -> None:
    assert right in GOOD
    file = tmp_path / "x.yaml"
    file.write_text(GOOD.replace(right, wrong, 1), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_study(file)
    assert str(error.value).replace("'", '"') == f"{file}:{message}".replace("'", '"')


@pytest.mark.parametrize(
    "text", ["", "[]", "just text", "17", "name: x\nmodel: {}\n", "tasks: {}", "methods: [[]]"]
)
def test_strange_files_are_one_line_too(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_study(file)
    assert str(error.value).startswith(f"{file}:1: ")
    assert "\n" not in str(error.value)


def read(text: str) -> Study:
    return Study.model_validate(Document(text, "x.yaml").data)


def languages_of(study: Study) -> list[tuple[str, ...]]:
    """Of each task."""
    return list(
        {combination.task.name: combination.languages for combination in study.combinations()}.values()
    )


def test_norwegian_is_a_language() -> None:
    assert languages_of(read(GOOD))[0] == ("en", "de", "nb")


def test_the_source_language_is_always_there() -> None:
    study = read(GOOD.replace("[en, de, no]", "{cldr-names: [sw, German, swh_Latn], number-words: all}"))
    names, words = languages_of(study)
    assert names == ("en", "sw", "de")
    assert len(words) == 42


def test_the_nearest_setting_holds() -> None:
    study = read(GOOD.replace("train: {learning_rate: 3e-2}", "train: {learning_rate: 3e-2, epochs: 2}"))
    train = {(one.task.name, one.method.name): one.train for one in study.combinations()}
    assert train["cldr-names", "none"] is None
    steps = {key: settings.steps for key, settings in train.items() if settings is not None}
    assert (steps["cldr-names", "lora"], steps["number-words", "lora"]) == (60, 5)
    words, names = train["number-words", "prefix"], train["cldr-names", "prefix"]
    assert words is not None
    assert names is not None
    # Epochs said nearer than steps take their place.
    assert (words.steps, words.epochs, words.batch_size) == (None, 2, 16)
    assert names.learning_rate == 0.03


def test_a_task_may_be_evaluated_in_its_own_way() -> None:
    study = read(GOOD.replace("train: {steps: 5}", "evaluate: {limit: 7}"))
    limits = {combination.task.name: combination.evaluate.limit for combination in study.combinations()}
    assert list(limits.values()) == [50, 7]


def test_a_study_written_out_reads_as_the_same() -> None:
    study = read(GOOD)
    assert read(study.to_yaml()) == study
    python = Study(
        name="p", model="demo:gemma-3-270m", tasks="cldr-names", methods=[{"name": "lora", "rank": 2}]
    )
    assert read(python.to_yaml()) == python
    assert python.methods[0].config == METHODS["lora"].Config(rank=2)


def test_a_file_keeps_its_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("# mine\n" + GOOD, encoding="utf-8")
    assert read_study(tmp_path / "x.yaml").to_yaml() == "# mine\n" + GOOD


def test_a_mistake_in_python_says_the_same() -> None:
    with pytest.raises(ValidationError, match='unknown method "lorra"; did you mean "lora"'):
        Study(name="p", model="demo:gemma-3-270m", tasks=["cldr-names"], methods=["lorra"])


def test_the_ready_studies_are_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    demo = read_study(root / "studies" / "demo.yaml")
    assert [method.name for method in demo.methods] == [
        "none",
        "soft-prompt",
        "prefix",
        "llama-adapter",
        "lora",
    ]
    data = root.parent / "shared" / "data"
    if not (data / "sib200").is_dir():
        pytest.skip("SIB-200's files are not here (../shared/data/sib200)")
    monkeypatch.setenv("CROSSTUNE_DATA", str(data))
    assert len(read_study(root / "studies" / "sib200.yaml").methods) == 6


def test_a_revision_stands_behind_the_model_s_name() -> None:
    """In the run's id with it; with several models each has its own."""
    rest = {"name": "pinned", "tasks": ["cldr-names"], "methods": ["none"], "languages": ["de"]}
    assert Study(model="owner/name", revision="v1", **rest).models == ("owner/name@v1",)
    for models in (["owner/a", "owner/b"], "owner/name@v2"):
        with pytest.raises(ValidationError, match="give it behind each model's name"):
            Study(model=models, revision="v1", **rest)

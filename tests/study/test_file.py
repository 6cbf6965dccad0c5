"""Files that include others and presets: what wins, and where a mistake is placed."""

import re
from pathlib import Path

import pytest

from crosstune.errors import UserError
from crosstune.study.file import presets
from crosstune.study.runs import expand
from crosstune.study.spec import read_study

BASE = """\
name: base
models: [demo:gemma-3-270m]
tasks: [cldr-names]
methods: [none, lora, prefix]
train: {steps: 60, batch_size: 16, limit: 64}
languages: [de]
"""


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder / "main.yaml"


def test_the_including_file_wins(tmp_path: Path) -> None:
    main = write(
        tmp_path,
        base=BASE,
        main="include: base.yaml\nname: mine\nmethods: [lora]\ntrain: {epochs: 2, per_label: 4}\n",
    )
    study = read_study(main)
    assert study.name == "mine"
    assert [method.name for method in study.methods] == ["lora"]
    # Mappings merge; of two settings that say the same thing, the including file's holds.
    assert study.train == {"batch_size": 16, "epochs": 2, "per_label": 4}
    assert study.models == ("demo:gemma-3-270m",)


def test_a_single_model_takes_the_place_of_models(tmp_path: Path) -> None:
    main = write(tmp_path, base=BASE, main="include: base.yaml\nmodel: demo:smollm2-135m\n")
    assert read_study(main).models == ("demo:smollm2-135m",)


def test_later_includes_win(tmp_path: Path) -> None:
    main = write(
        tmp_path,
        base=BASE,
        more="train: {steps: 7}\nseeds: [1, 2]\n",
        main="include: [base.yaml, more.yaml]\n",
    )
    study = read_study(main)
    assert (study.train["steps"], study.train["batch_size"], study.seeds) == (7, 16, (1, 2))


def test_includes_are_found_from_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    write(tmp_path / "inner", base=BASE, middle="include: base.yaml\nseeds: [3]\n")
    assert read_study(write(tmp_path, main="include: inner/middle.yaml\n")).seeds == (3,)


def test_a_task_of_ones_own_is_found_from_the_file_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "mine.yaml").write_text(
        'name: mine\nkind: choice\nprompt: "{text}:"\nchoices: [a, b]\nanswer: label\n'
        "train: x.csv\ntest: x.csv\n",
        encoding="utf-8",
    )
    (tmp_path / "inner" / "x.csv").write_text("text,label\nx,a\n", encoding="utf-8")
    write(tmp_path / "inner", base=BASE.replace("cldr-names", "{file: mine.yaml}").replace("[de]", "all"))
    assert read_study(write(tmp_path, main="include: inner/base.yaml\n")).tasks[0].name == "mine"


def test_what_is_written_out_is_whole(tmp_path: Path) -> None:
    main = write(
        tmp_path,
        base=BASE,
        main="include: base.yaml\ngrid: {lora.rank: [2, 4]}\nbudget: 200K\n"
        "search: {learning_rates: [1e-3, 1e-2]}\n",
    )
    study = read_study(main)
    alone = tmp_path / "alone"
    alone.mkdir()
    again = read_study(write(alone, main=study.to_yaml()))
    assert again == study
    assert [run.id for run in expand(again)] == [run.id for run in expand(study)]


@pytest.mark.parametrize(
    ("base", "main", "message"),
    [
        (
            BASE.replace("steps", "stepz"),
            "train: {batch_size: 4}",
            'base.yaml:5: unknown key "stepz" in train',
        ),
        (
            BASE.replace("batch_size: 16", "batch_size: 0"),
            "train: {steps: 4}",
            "base.yaml:5: train: batch_size",
        ),
        (BASE, "train: {batch_size: 0}", "main.yaml:2: train: batch_size should be greater"),
        (
            BASE.replace("prefix", "{name: prefix, length: 0}"),
            "",
            "base.yaml:4: method prefix: length should",
        ),
        (BASE, "methods: [none, {name: lora, rank: 0}]", "main.yaml:2: method lora: rank should"),
        (BASE.replace("[de]", "[qq]"), "seeds: [1]", "base.yaml:6: languages: unknown language"),
        (BASE.replace("name: base\n", ""), "", 'main.yaml:1: a study needs "name:"'),
        ("[]", "", "base.yaml:1: an included file is a mapping of a study's keys"),
        ("a: [", "", "base.yaml:1: not valid YAML"),
        ("include: main.yaml", "", "base.yaml:1: include: main.yaml includes this file again"),
        ("include: gone.yaml", "", "base.yaml:1: include: there is no "),
        ("include: [a.yaml, 3]", "", "base.yaml:1: include: a file or a list of them is wanted"),
        (
            "seeds: [1]\npreset: papers/llama",
            "",
            'base.yaml:2: unknown preset "papers/llama"; did you mean "paper/',
        ),
    ],
)
def test_a_mistake_names_its_own_file(tmp_path: Path, base: str, main: str, message: str) -> None:
    file = write(tmp_path, base=base, main=f"include: base.yaml\n{main}\n")
    with pytest.raises(UserError) as error:
        read_study(file)
    assert str(error.value).startswith(f"{tmp_path}/{message}")
    assert "\n" not in str(error.value)


def test_a_file_that_includes_itself(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"main\.yaml:1: include: main\.yaml includes this file again"):
        read_study(write(tmp_path, main="include: main.yaml\n"))


OWN_TRAIN = "train: {steps: 50, learning_rate: 0.01}"
TWO_LEVELS = """name: base
model: demo:gemma-3-270m
tasks: [{name: cldr-names, evaluate: {limit: 7}, train: {epochs: 1}}, number-words]
methods: [none, {name: lora, train: {steps: 50, learning_rate: 0.01}}]
languages: [de]
train: {epochs: 2}
"""


def test_changes_hold_whatever_tasks_and_methods_say(tmp_path: Path) -> None:
    file = write(tmp_path, main=TWO_LEVELS)
    study = read_study(
        file, {"train.steps": 10, "evaluate.limit": 3, "seeds": [3], "languages": ["de", "ru"]}
    )
    for combination in study.combinations():
        assert combination.evaluate.limit == 3
        assert combination.languages == ("en", "de", "ru")
        if combination.train is not None:
            assert (combination.train.steps, combination.train.epochs) == (10, None)
            assert combination.train.learning_rate == 0.01
    assert study.seeds == (3,)
    assert read_study(file).to_yaml() == TWO_LEVELS
    again = write(tmp_path, main=study.to_yaml())
    assert [run.id for run in expand(read_study(again))] == [run.id for run in expand(study)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.stepz": 3}, '--set train.stepz: unknown key "stepz" in train; did you mean "steps"?'),
        ({"train.steps": "x"}, "--set train.steps: train: steps should be a whole number"),
        ({"trian.steps": 3}, '--set trian.steps: unknown key "trian" in a study; did you mean "train"?'),
        ({"modell": "x"}, '--set modell: unknown key "modell" in a study; did you mean "model"?'),
    ],
)
def test_a_mistaken_change_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        read_study(write(tmp_path, main=TWO_LEVELS), changes)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        (
            "train: {steps: 50, learning_rate: 0.01}",
            "learning_rate: 0.01",
            'write "train: {learning_rate: ...}"',
        ),
        (OWN_TRAIN, "epochs: 3", 'write "train: {epochs: ...}"'),
        (OWN_TRAIN, "r: 8", "it is called rank"),
        (OWN_TRAIN, "targets: [q]", "it is called target_modules"),
        ("train: {epochs: 2}", "batch_size: 8", 'write "train: {batch_size: ...}"'),
        ("train: {epochs: 2}", "limit: 8", 'write "evaluate: {limit: ...}"'),
        ("[none,", "[adapter,", "it is called bottleneck"),
        ("[none,", "[prefix-tuning,", "it is called prefix"),
    ],
)
def test_common_slips_are_told_what_to_write(tmp_path: Path, old: str, new: str, hint: str) -> None:
    assert old in TWO_LEVELS
    with pytest.raises(UserError, match=re.escape(hint)):
        read_study(write(tmp_path, main=TWO_LEVELS.replace(old, new)))


def test_a_label_names_a_method_and_changes_no_run(tmp_path: Path) -> None:
    plain = read_study(write(tmp_path, main=TWO_LEVELS))
    text = TWO_LEVELS.replace("{name: lora,", "{name: lora, label: LoRA (ours),")
    named = read_study(write(tmp_path, main=text))
    assert {run.label for run in expand(named)} == {"none", "LoRA (ours)"}
    assert [run.id for run in expand(named)] == [run.id for run in expand(plain)]
    named._text = None  # written anew
    assert "LoRA (ours)" in named.to_yaml()


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_says_what_it_is(name: str) -> None:
    assert len(presets()[name]) > 20

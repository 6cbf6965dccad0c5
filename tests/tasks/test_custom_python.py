"""A task of the user's own in Python: what is taken from the file, and how its mistakes are told."""

import pytest

from crosstune.errors import UserError
from crosstune.tasks.custom.load import load_task

PYTHON = """\
from __future__ import annotations

from dataclasses import dataclass

from crosstune.tasks.base import Example, Task


@dataclass
class Pair:
    one: str
    two: str


class Order(Task):
    name = "order"
    version = 1
    kind = "choice"
    metrics = ("accuracy",)
    summary = "a test's own"
    split_names = {"train": "made", "test": "made"}

    def languages(self):
        return ["en"]

    def examples(self, split, language):
        pair = Pair("a", "b")
        return [Example("1", language, "First?", (pair.one,), (pair.one, pair.two))]
"""


def define(folder, text):
    (folder / "order.py").write_text(text, encoding="utf-8")
    return load_task(folder / "order.py")


def test_a_task_in_python(tmp_path):
    loaded = define(tmp_path, PYTHON)
    task = loaded.task()
    assert (task.name, task.languages()) == ("order", ["en"])
    (example,) = task.examples("test", "en")
    assert task.score(example, "a") == {"accuracy": 1.0}
    assert not (tmp_path / "__pycache__").exists()
    changed = define(tmp_path, PYTHON.replace("version = 1", "version = 2"))
    assert (changed.task.version, loaded.task.version) == (2, 1)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("@dataclass", "@dataclass(", "8: not valid Python: '(' was never closed"),
        ("from dataclasses", "from dataklasses", "3: ModuleNotFoundError: No module named 'dataklasses'"),
        ("class Pair:", "class Pair:\n    raise SystemExit(1)", "10: SystemExit: 1"),
        ("class Order(Task)", "class Order(object)", "1: no task: define one subclass of "),
        ("    def languages(self):", "    def tongues(self):", "14: class Order does not define languages"),
        ('    name = "order"\n', "", "14: class Order: name is missing; give letters, digits"),
        ("version = 1", 'version = "1"', "14: class Order: version should be a whole number from 1"),
        ('"choice"', '"choose"', '14: class Order: kind should be "choice" or "generation"'),
        ('("accuracy",)', '"accuracy"', "14: class Order: metrics should be a tuple of names"),
        ("class Order", "class Other(Task):\n    languages = examples = None\n\n\nclass Order",
         "18: a second task, Order, beside Other; give each its own file"),
    ],
)  # fmt: skip
def test_a_mistake_in_python_names_its_line(tmp_path, right, wrong, message):
    assert right in PYTHON
    with pytest.raises(UserError) as caught:
        define(tmp_path, PYTHON.replace(right, wrong, 1))
    assert str(caught.value).startswith(f"{tmp_path / 'order.py'}:{message}")
    assert "\n" not in str(caught.value)


def test_a_mistake_found_when_the_task_is_used(tmp_path):
    task = define(tmp_path, PYTHON.replace('("a", "b")', '("a")')).task()
    with pytest.raises(UserError, match=r"order\.py:26: TypeError: .*missing 1 required .* argument: 'two'"):
        task.examples("test", "en")
    source = PYTHON.replace(
        "        pair =", '        from crosstune import UserError\n        raise UserError("no b")\n#'
    )
    with pytest.raises(UserError, match=r"^no b$"):
        define(tmp_path, source).task().examples("test", "en")


WORDS = """\
from crosstune.tasks.base import Example, Task


class Words(Task):
    name = "words"
    version = 1
    kind = "generation"
    metrics = ("accuracy",)
    summary = "a test's own"
    split_names = {"train": "made", "test": "made"}

    def languages(self):
        return ["en", "de"]

    def examples(self, split, language):
        return [Example(str(i), language, f"{i}?", ("x" * (i + 1),)) for i in range(9)]
"""


def test_examples_are_shuffled_alike_in_every_language(tmp_path):
    task = define(tmp_path, WORDS).task()
    ids = [example.id for example in task.examples("test", "en")]
    assert sorted(ids) == [str(i) for i in range(9)] != ids
    assert ids == [example.id for example in task.examples("test", "de")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {'("x" * (i + 1),)': '(" a", "a\\nb")'},
            r"15: examples: example '0' \(test, en\): its answer 'a\\nb' could never be matched: it holds",
        ),
        (
            {
                '"generation"': '"choice"',
                '("accuracy",)': '("mcc",)',
                '("x" * (i + 1),)': '("a",), ("a", f"b{i}")',
            },
            r"15: examples: mcc needs the same choices in every example \(test, en\)",
        ),
        (
            {'("accuracy",)': '("mcc",)'},
            "4: class Words: metrics: mcc is of a whole test set of choices, and comes",
        ),
        (
            {'("accuracy",)': '("own", "chrf")'},
            "4: class Words: metrics: chrf is of a whole test set of written",
        ),
    ],
)
def test_what_could_never_be_scored_is_refused(tmp_path, changes, message):
    text = WORDS
    for old, new in changes.items():
        text = text.replace(old, new)
    with pytest.raises(UserError, match=rf"order\.py:{message}"):
        define(tmp_path, text).task().examples("test", "en")

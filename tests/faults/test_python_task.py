"""A Python task that returns what it should not: one line with file, method and example, before any model."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from crosstune.errors import UserError
from crosstune.running import worker
from crosstune.running.runner import run_study
from crosstune.study.spec import read_study
from crosstune.tasks.custom.load import load_task
from saved_model import study_of, write_study

TASK = """\
from crosstune.tasks.base import Example, Task


class Own(Task):
    name, version, kind, metrics, summary = "own", 1, "choice", ("accuracy",), "of a user's own"
    split_names = {"train": "made", "test": "made"}

    def languages(self):
        return ["en", "de"]

    def examples(self, split, language):
        return [
            Example(f"{i}", language, f"{split} {i}:", ("yes",), ("yes", "no"))
            for i in range(3)
        ]

    def score(self, example, answer):
        return {"accuracy": float(answer in example.answers)}
"""
EXAMPLES, SCORE, LANGUAGES = "11: examples: ", "17: score: ", "8: languages: "
MISTAKES = [
    ('("yes",), ', '("yes"), ', EXAMPLES + "example '0' (test, en): answers should be a tuple of texts"),
    ('("yes", "no")', '("yes")', EXAMPLES + "example '0' (test, en): choices should be a tuple of texts"),
    ('("yes",), ', '("maybe",), ', "its answer 'maybe' is none of its choices ('yes', 'no')"),
    ('("yes",), ', "(), ", "it has no answer"),
    ('("yes",), ', "(1,), ", "a text of answers should be a text; found 1"),
    ('("yes", "no")', '("yes",)', "it should have two or more different choices"),
    ('("yes", "no")', '("yes", "yes")', "it should have two or more different choices"),
    ('("yes", "no")', '("yes", b"no")', "a text of choices should be a text; found b'no'"),
    ('("yes", "no")', '("yes", "yes ")', "it should have two or more different choices"),
    ('("yes",), ("yes", "no")', '("é",), ("é", "e\\u0301")', "two or more different choices"),
    ('("yes", "no")', '("yes", " ")', "a text of choices is empty"),
    ('f"{split} {i}:"', '" "', "prompt is empty"),
    ("return [\n", "raise BaseException('x')\n        return [\n", "12: BaseException: x (--debug"),
    ("return [\n", "raise type('E', (Exception,), {'__str__': 3})\n        return [\n", "12: E: it cannot"),
    ('("yes", "no")', '("yes", *map(str, range(20_000)))', "20,001 choices; an example has 10,000 at most"),
    ('{"accuracy": float(answer in example.answers)}', '{"accuracy": float(answer == "no")}',
     "score gives accuracy 0 to the right answers of the first 3 examples (test, en)"),
    ("examples(self, split, language)", "examples(self)", "11: TypeError: Own.examples() takes 1"),
    ('def languages(self):\n        return ["en", "de"]', 'languages = ["en", "de"]',
     "class Own: languages should be a method, def languages(self, ...); found ['en', 'de']"),
    ("    def languages", "    @property\n    def languages", "languages should be a method"),
    ("    def examples(self, split", "    @staticmethod\n    def examples(split", "should be a method"),
    ('f"{i}"', '"same"', EXAMPLES + "example 'same' (test, en): its id is there twice"),
    ('f"{i}"', "i", "example 0 (test, en): id should be a text; found 0"),
    ('f"{split} {i}:"', "None", "prompt should be a text; found None"),
    ('f"{split} {i}:"', '"\\ud800"', "prompt holds half a character (U+D800)"),
    ("return [\n", "return None and [\n", EXAMPLES + "should return a list of examples; returned None"),
    ("return [\n", "return () if split == 'test' else [\n", EXAMPLES + "returned no example (test, en)"),
    ('f"{i}", language', 'f"{i}", "de"', "language should be 'en'; found 'de'"),
    ('("yes", "no"))', '("yes", "no"), fields=None)', "fields should be pairs of texts"),
    ('("yes", "no"))', '("yes", "no"), fields=(("x", 3),))', "fields should be pairs of texts"),
    ("    split_names", "    stop = ('',)\n    split_names", "class Own: stop should be a tuple of texts"),
    ("    split_names", "    stop = '.'\n    split_names", "class Own: stop should be a tuple of texts"),
    ("    split_names", "    max_answer_tokens = 10**6\n    split_names", "max_answer_tokens should be a"),
    ("    split_names", "    source_language = 'xx'\n    split_names", "source_language should be a code of"),
    ('{"train": "made", "test"', '{"train": "\\ud800", "test"', "split_names should be a dict such as"),
    ("    def languages", "    def offers(self, language):\n        return 3\n\n    def languages",
     "8: offers: should return True or False; returned 3"),
    ("    def languages", "    def __init__(self, o=3):\n        super().__init__(o)\n\n    def languages",
     "8: __init__: should hand on the options it was given; found 3"),
    ("return [\n", "return {} or [1] or [\n", EXAMPLES + "should return examples; number 1 is 1"),
    ("return [\n", "return (x for x in ()) or [\n", "should return a list of examples; returned <gene"),
    ('return ["en", "de"]', 'return "en"', LANGUAGES + "should return a list of codes"),
    ('return ["en", "de"]', "pass", LANGUAGES + "should return a list of codes"),
    ('return ["en", "de"]', 'return ["en", "klingon"]', LANGUAGES + "returned unknown language 'kling"),
    ('return ["en", "de"]', 'return ["en", "German"]', LANGUAGES + "returned 'German', which is not a"),
    ('return ["en", "de"]', 'return ["en", "en"]', LANGUAGES + "should return each language once"),
    ('return ["en", "de"]', "return [0]", LANGUAGES + "returned 0, which is not a canonical code"),
    ('{"accuracy": float(answer in example.answers)}', '{"accuracy": float("nan")}',
     SCORE + "example '0' (en): accuracy should be a number from 0 to 1; returned nan"),
    ('{"accuracy": float(answer in example.answers)}', '{"accuracy": 150}', "returned 150"),
    ('{"accuracy": float(answer in example.answers)}', '{"accuracy": 10**400}', "returned 1000"),
    ('{"accuracy": float(answer in example.answers)}', '{"accuracy": "1"}', "returned '1'"),
    ('{"accuracy": float(answer in example.answers)}', '{"f1": 1.0}', "returned None"),
    ('{"accuracy": float(answer in example.answers)}', "1.0", "should return a dict such as"),
    ("    def languages", "    def __init__(self, options=None):\n        pass\n\n    def languages",
     "8: __init__: should call super().__init__(options)"),
    ("    def languages", "    def template(self, language):\n        return 3\n\n    def languages",
     "8: template: the template for en should be a text; found 3"),
]  # fmt: skip


def everything(path: Path) -> None:
    """What reading a study and its data, and predict, ask a task for."""
    task = load_task(path).task()
    task.languages()
    task.examples("test", "en")
    task.template("en")
    task.offers("de")


@pytest.mark.parametrize(("right", "wrong", "says"), MISTAKES)
def test_a_mistake_names_file_method_and_example(tmp_path: Path, right: str, wrong: str, says: str) -> None:
    assert TASK.count(right) >= 1
    file = tmp_path / "own.py"
    file.write_text(TASK.replace(right, wrong, 1))
    with pytest.raises(UserError) as caught:
        everything(file)
    assert str(caught.value).startswith(f"{file}:")
    assert says in str(caught.value)


def test_what_is_right_passes(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(TASK.replace('("yes",), ("yes", "no")', '["yes"], ["yes", "no"]'))
    everything(file)
    (first, *_) = load_task(file).task().examples("test", "en")
    assert (first.answers, first.choices) == (("yes",), ("yes", "no"))


def test_it_is_found_before_the_model_is_loaded(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(TASK.replace('("yes",), ', '("yes"), '))
    monkeypatch.setattr(worker, "load_for", lambda *_: pytest.fail("a model was loaded"))
    settings = study_of(model, tmp_path / "s", tasks=["own.py"], methods=["none"], languages="all")
    study = read_study(write_study(tmp_path / "x.yaml", settings))
    with pytest.raises(UserError, match=r"own\.py:11: examples: example '0'"):
        run_study(study, console=Console(file=io.StringIO()))

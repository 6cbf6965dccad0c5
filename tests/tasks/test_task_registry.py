import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosstune.data.example import fingerprint
from crosstune.data.forms import form_of
from crosstune.errors import UserError
from crosstune.tasks import TASKS, make_task
from crosstune.tasks.prompts import render


def fingerprints():
    """One line a task: its languages, and hashes of all examples in some of them."""
    for name in ("cldr-names", "number-words"):
        task = make_task(name)
        languages = task.languages()
        train = [fingerprint(task.examples(split, "en")) for split in ("train", "dev")]
        print(name, languages, train, [fingerprint(task.examples("test", code)) for code in languages[::7]])


def test_names_agree():
    assert all(task.name == name for name, task in TASKS.items())


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_what_it_is(name):
    task = TASKS[name]
    assert form_of(task.kind).name == task.kind
    assert task.metrics
    assert task.version >= 1
    assert set(task.split_names) == {"train", "dev", "test"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sib20", None, r'unknown task "sib20"; did you mean "sib200"\?'),
        ("", None, 'unknown task ""; known: afrimgsm, afrixnli, americasnli'),
        ("sib200", {"dta": "x"}, r'task sib200 has no option "dta"; did you mean "data"\?'),
        ("cldr-names", {"data": "x"}, 'task cldr-names has no option "data"; it has no options'),
        ("sib200", {"data": 3}, r'task sib200, option "data": Input should be a valid string, not 3'),
    ],
)
def test_mistakes_are_told_in_one_line(name, options, message):
    with pytest.raises(UserError, match=message) as caught:
        make_task(name, options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", ["1", "2"])
def test_examples_do_not_depend_on_the_hash_seed(seed, capsys):
    here = Path(__file__)
    code = f"import sys; sys.path.insert(0, {str(here.parent)!r}); import {here.stem} as t; t.fingerprints()"
    env = {**os.environ, "PYTHONHASHSEED": seed}
    other = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    fingerprints()
    assert capsys.readouterr().out == other.stdout != ""


@given(st.text())
def test_values_are_copied_untouched(text):
    assert render("a {x} b {x}", x=text) == f"a {text} b {text}"


def test_a_value_is_never_a_template():
    assert render("{x}|{y}", x="{y}", y="\\1 %s $z") == "{y}|\\1 %s $z"


def test_a_place_without_a_value_is_noticed():
    with pytest.raises(KeyError):
        render("{x} {z}", x="1")

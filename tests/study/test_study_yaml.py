"""YAML with lines: what is read, what is refused, and that nothing else ever escapes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosstune.config.yaml_file import Document, dump, parse_value, read_document
from crosstune.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),  # Norwegian, not False
        ("on", "on"),
        ("y", "y"),
        ("1e-3", 0.001),
        ("3e-2", 0.03),
        ("10", 10),
        ("-1.5", -1.5),
        ("010", "010"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("12:30:00", "12:30:00"),
        ("2024-01-01", "2024-01-01"),
        (".inf", ".inf"),
        ("1e999", "1e999"),
        ("true", True),
        ("~", None),
        ("", None),
        ("'10'", "10"),
        ("[0, 1]", [0, 1]),
        ("{a: [no]}", {"a": ["no"]}),
    ],
)
def test_scalars_are_read_by_the_core_schema(text: str, value: object) -> None:
    read = parse_value(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", 'f.yaml:3: key "a" again; first on line 1'),
        ("a:\n  - {x: 1, x: 2}", 'f.yaml:2: key "x" again; first on line 2'),
        ("a: &x 1\nb: *x", "f.yaml:2: not valid YAML: aliases (*x) are not used here; write the value out"),
        (
            "a: !!python/name:os x",
            "f.yaml:1: tags (tag:yaml.org,2002:python/name:os) are not used here; write the plain value",
        ),
        ("? [a]\n: 1", "f.yaml:1: a key must be a plain word"),
        ("a: [1,\nb: 2", "f.yaml:2: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: 1\n---\nb: 2", "f.yaml:2: not valid YAML: but found another document"),
        ("a: 1\nb: \x07", "f.yaml:2: not valid YAML: character U+0007 is not allowed"),
        (
            'a: 1\nb: "\\uD800"',
            "f.yaml:2: not valid YAML: \\ud800 is half a character; write the character itself",
        ),
        ("[" * 5000, "f.yaml:1: not valid YAML: nested too deeply"),
    ],
)
def test_refusals_name_the_line(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        Document(text, "f.yaml")
    assert str(error.value) == message


def test_a_place_has_the_line_of_its_key() -> None:
    document = Document("a: 1\nb:\n  - x: 1\n    y:\n      z: 2\n", "f.yaml")
    assert document.line(("b", 0, "y")) == 4
    assert document.line(("b", 0, "y", "z")) == 5
    assert document.line(("b", 0, "not there")) == 3
    assert document.line(("not there",)) == 1


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("a: 1\nb: é".encode("latin-1"))
    for name, message in (
        ("latin.yaml", "latin.yaml:2: not UTF-8 text"),
        ("none.yaml", "none.yaml: no such file"),
    ):
        with pytest.raises(UserError, match=message):
            read_document(tmp_path / name)


@given(st.text(alphabet=st.sampled_from("ab:-[]{},#&*!|>'\"%@`?\n \t1.é\u2028\x00\ufeff"), max_size=60))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    message = ""
    try:
        Document(text, "f.yaml")
    except UserError as error:
        message = str(error)
    assert "\n" not in message
    assert message == "" or message.startswith("f.yaml:")


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**9), 10**9)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.sampled_from(["1e3", "no", "010", "~", "1.", ""])
        | st.text(st.characters(codec="utf-8"), max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_what_is_written_is_read_back(value: object) -> None:
    assert Document(dump(value), "f.yaml").data == value

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosstune.data.tables import Row, read_json, read_lines, read_rows
from crosstune.errors import UserError


def write(tmp_path, body):
    path = tmp_path / "table.tsv"
    path.write_bytes(body)
    return path


def test_rows_keep_their_line_numbers_and_other_columns(tmp_path):
    rows = read_rows(write(tmp_path, b"a\tb\tc\r\n1\t2\t3\r\n4\t5\t6"), ("b",))
    assert [(r.line, r["a"], r["b"], r["c"]) for r in rows] == [(2, "1", "2", "3"), (3, "4", "5", "6")]
    assert str(rows[1].error("odd")).endswith("table.tsv:3: odd")


def test_without_a_header_the_columns_are_given(tmp_path):
    (row,) = read_rows(write(tmp_path, b"x\ty\n"), ("first", "second"), header=False)
    assert (row.line, row["second"]) == (1, "y")


def test_a_stray_quote_swallows_nothing(tmp_path):
    rows = read_rows(
        write(tmp_path, b't\tn\n"Hi" she said\t1\n5" pipe\t2\n"open\t3\n"a ""b"""\t4\n'), ("t", "n")
    )
    assert [r["t"] for r in rows] == ['"Hi" she said', '5" pipe', '"open', 'a "b"']
    assert [r["n"] for r in rows] == ["1", "2", "3", "4"]


def test_only_newlines_end_lines(tmp_path):
    rows = read_rows(write(tmp_path, "t\na\u2028b\x0b\x85c\n".encode()), ("t",))
    assert [r["t"] for r in rows] == ["a\u2028b\x0b\x85c"]


def test_a_byte_order_mark_is_no_text(tmp_path):
    (row,) = read_rows(write(tmp_path, b"\xef\xbb\xbfa\n1\n"), ("a",))
    assert row["a"] == "1"


@given(st.binary(max_size=200))
def test_any_bytes_give_rows_or_a_user_error(tmp_path_factory, body):
    path = write(tmp_path_factory.mktemp("t"), body)
    try:
        told = f"{path}: {len(read_rows(path, ('a', 'b'), header=False)) - len(read_lines(path))} lines lost"
    except UserError as error:
        told = str(error)
    else:
        assert told.endswith(": 0 lines lost")
    assert str(path) in told
    assert "\n" not in told


def test_a_folder_is_not_a_table(tmp_path):
    (tmp_path / "t.tsv").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        read_rows(tmp_path / "t.tsv", ("a",))


def test_half_a_character_is_a_bad_row(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": "x\\ud800y"}\n{"a": "\\ud83d\\ude00"}\n', encoding="utf-8")
    first, second = read_rows(path, ("a",))
    with pytest.raises(UserError, match=r"t\.jsonl:1: a holds half a character \(U\+D800\)"):
        first.text("a")
    assert second.text("a") == "😀"


def test_csv_records_may_span_lines_and_bad_ones_are_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b'a,b\n"one\ntwo",1\nx,2,3\n"st"ray,4\n\xff,5\ny,6\n')
    rows = read_rows(path, ("a", "b"))
    assert [(r.line, r["a"], r["b"]) for r in rows if isinstance(r, Row)] == [
        (2, "one\ntwo", "1"),
        (7, "y", "6"),
    ]
    bad = sorted(str(r).rsplit(".csv:")[1] for r in rows if not isinstance(r, Row))
    assert [message.partition(":")[0] for message in bad] == ["4", "5", "6"]


def test_an_open_quote_does_not_swallow_the_rest_of_a_csv(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a,b\nx,1\n"open,2\ny,3\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"t\.csv:3: a quoted field opens here and is never closed"):
        read_rows(path, ("a", "b"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": 1', "not JSON"),
        ("[1]", "where an object was expected"),
        ('{"b": 1}', "no column a; it has b"),
        ('{"a": "' + "x" * 1_000_001 + '"}', "a line of 1,000,010 bytes; the most is 1,000,000"),
    ],
)
def test_broken_json_lines_are_named(tmp_path, line, message):
    path = tmp_path / "t.jsonl"
    path.write_text(f'{{"a": "fine"}}\n{line}\n \n{{"a": "fine"}}\n', encoding="utf-8")
    good, bad, last = read_rows(path, ("a",))
    assert "t.jsonl:2: " in str(bad)
    assert message in str(bad)
    assert (good["a"], last["a"]) == ("fine", "fine")


def test_parquet_rows_and_damage(tmp_path):
    path = tmp_path / "t.parquet"
    pl.DataFrame({"a": ["x", "y" * 1_000_001], "answers": [{"text": ["t"]}, {"text": []}]}).write_parquet(
        path
    )
    first, big = read_rows(path, ("a", "answers"))
    assert (first.line, first["a"], first["answers"]) == (1, "x", {"text": ["t"]})
    assert "t.parquet:2: a row of 1,000,001 letters" in str(big)
    with pytest.raises(UserError, match="no column b; it has a, answers"):
        read_rows(path, ("b",))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="not a readable parquet file"):
        read_rows(path, ("a",))


def test_json_documents_name_the_line(tmp_path):
    path = tmp_path / "t.json"
    path.write_text('{"a":\n [1,]}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"t\.json:2: not JSON"):
        read_json(path)
    path.write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(UserError, match="nested too deeply"):
        read_json(path)
    path.write_bytes(b'{"a":\n"\xff"}')
    with pytest.raises(UserError, match=r"t\.json:2: not UTF-8"):
        read_json(path)

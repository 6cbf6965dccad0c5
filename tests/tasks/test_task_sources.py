import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosstune.errors import UserError
from crosstune.tasks.sources import read_lines, read_tsv


def write(tmp_path, body):
    path = tmp_path / "table.tsv"
    path.write_bytes(body)
    return path


def test_rows_keep_their_line_numbers_and_other_columns(tmp_path):
    rows = read_tsv(write(tmp_path, b"a\tb\tc\r\n1\t2\t3\r\n4\t5\t6"), ("b",))
    assert [(r.line, r["a"], r["b"], r["c"]) for r in rows] == [(2, "1", "2", "3"), (3, "4", "5", "6")]
    assert str(rows[1].error("odd")).endswith("table.tsv:3: odd")


def test_without_a_header_the_columns_are_given(tmp_path):
    (row,) = read_tsv(write(tmp_path, b"x\ty\n"), ("first", "second"), header=False)
    assert (row.line, row["second"]) == (1, "y")


def test_a_stray_quote_swallows_nothing(tmp_path):
    rows = read_tsv(
        write(tmp_path, b't\tn\n"Hi" she said\t1\n5" pipe\t2\n"open\t3\n"a ""b"""\t4\n'), ("t", "n")
    )
    assert [r["t"] for r in rows] == ['"Hi" she said', '5" pipe', '"open', 'a "b"']
    assert [r["n"] for r in rows] == ["1", "2", "3", "4"]


def test_only_newlines_end_lines(tmp_path):
    rows = read_tsv(write(tmp_path, "t\na\u2028b\x0b\x85c\n".encode()), ("t",))
    assert [r["t"] for r in rows] == ["a\u2028b\x0b\x85c"]


def test_a_byte_order_mark_is_no_text(tmp_path):
    (row,) = read_tsv(write(tmp_path, b"\xef\xbb\xbfa\n1\n"), ("a",))
    assert row["a"] == "1"


@given(st.binary(max_size=200))
def test_any_bytes_give_rows_or_a_user_error(tmp_path_factory, body):
    path = write(tmp_path_factory.mktemp("t"), body)
    try:
        told = f"{path}: {len(read_tsv(path, ('a', 'b'), header=False)) - len(read_lines(path))} lines lost"
    except UserError as error:
        told = str(error)
    else:
        assert told.endswith(": 0 lines lost")
    assert str(path) in told
    assert "\n" not in told


def test_a_folder_is_not_a_table(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        read_tsv(tmp_path, ("a",))

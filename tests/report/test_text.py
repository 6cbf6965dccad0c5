import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from crosstune.report.text import percent, visible


@given(st.text(st.characters(exclude_categories=[])), st.integers(1, 300))
def test_visible_text_does_nothing_and_is_short(text: str, limit: int) -> None:
    shown = visible(text, limit)
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in shown)
    assert not set(shown) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u200f\ufeff")
    assert len(shown) <= limit * 10 + 40


def test_what_scripts_need_is_kept_and_what_is_cut_is_counted() -> None:
    assert visible("می‌خواهم क्‍ष") == "می‌خواهم क्‍ष"
    assert visible("a\nb\tc\x1b") == "a⏎b⇥c⟨U+001B⟩"
    assert visible("x" * 102_400, 3) == "xxx… (102,400 characters)"


def test_percent() -> None:
    assert [percent(None), percent(-0.0001), percent(0.1234), percent(1.0)] == ["–", "0.0", "12.3", "100.0"]

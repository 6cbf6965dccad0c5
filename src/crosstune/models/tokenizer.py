"""What a tokenizer does to texts that a model goes on from: what it closes them with, and what it drops."""

from collections.abc import Iterable, Sequence
from typing import Any

from crosstune.errors import UserError


def closing(tokenizer: Any, ends: Iterable[int]) -> int:
    """How many end-of-text tokens its post-processor puts behind every text.

    A causal model that goes on behind one answers a text it takes for finished, so they are cut off.

    Args:
        tokenizer: Of Hugging Face.
        ends: Token ids that end a text.
    """
    text = tokenizer.encode(":", add_special_tokens=False)
    whole = tokenizer.encode(":")
    starts = [at for at in range(len(whole) - len(text) + 1) if whole[at : at + len(text)] == text]
    behind = whole[starts[0] + len(text) :] if starts else []
    return len(behind) if behind and set(behind) <= set(ends) else 0


def drops_line_breaks(tokenizer: Any) -> bool:
    """Whether no text that it decodes holds a line break, so that none can end an answer."""
    ids = tokenizer.encode("a\nb", add_special_tokens=False)
    return "\n" not in tokenizer.decode(ids, skip_special_tokens=True)


def remarks(tokenizer: Any, closed_by: int, rows: int) -> list[str]:
    """What a person should know of it before any result: a line each, most often none.

    Args:
        tokenizer: Of Hugging Face.
        closed_by: From `closing`, where these tokens are cut off.
        rows: Of the embedding.
    """
    lines = []
    if closed_by:
        lines.append("its tokenizer closes texts with end-of-text; this is left out behind prompts")
    if drops_line_breaks(tokenizer):
        lines.append("its tokenizer drops line breaks: no stop string with one can end an answer")
    if len(tokenizer) > rows:
        lines.append(
            f"its tokenizer has {len(tokenizer):,} tokens and the embedding {rows:,} rows: texts with a "
            "token beyond are refused"
        )
    return lines


def check_ids(tokenizer: Any, ids: Sequence[int], rows: int, text: str) -> None:
    """Refuse a text with a token that the embedding has no row for.

    Raises:
        UserError: It has one; the token and the text are named.
    """
    if ids and (highest := max(ids)) >= rows:
        token = tokenizer.convert_ids_to_tokens(highest)
        raise UserError(
            f"token {highest} ({token!r}) is beyond the embedding's {rows:,} rows, in {text[:60]!r}; "
            "take it out of the text, or choose another model"
        )

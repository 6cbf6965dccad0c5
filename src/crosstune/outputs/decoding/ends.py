"""Where an answer ends: before the first of some strings."""

from collections.abc import Sequence

from crosstune.models.language_model import LanguageModel


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string, an opening line break skipped."""
    text = text.lstrip()
    ends = [at for s in stop if (at := text.find(s)) >= 0]
    return text[: min(ends)] if ends else text


def stopped(lm: LanguageModel, ids: Sequence[int], stop: Sequence[str]) -> bool:
    """Whether a stop string has been written (after something else than white space)."""
    # Only what its last token can have completed is looked at first: a letter is four tokens at most.
    near = ids[-4 * (max(map(len, stop), default=0) + 1) :]
    if not any(s in lm.tokenizer.decode(near, skip_special_tokens=True) for s in stop):
        return False
    text = lm.tokenizer.decode(ids, skip_special_tokens=True).lstrip()
    return any(s in text for s in stop)


def texts(lm: LanguageModel, answers: Sequence[Sequence[int]], stop: Sequence[str]) -> list[str]:
    """Answers of token ids as strings, cut before a stop string, without surrounding white space."""
    return [cut(lm.tokenizer.decode(ids, skip_special_tokens=True), stop).strip() for ids in answers]

"""Where an answer starts and ends: behind what the model thought first, before the first of some strings."""

from collections.abc import Sequence

from crosstune.models.language_model import LanguageModel
from crosstune.models.tokens import CLOSE, OPEN


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string, an opening line break skipped, and a thought that has an end."""
    answer = _behind_thought(text)
    text = (text if answer is None else answer).lstrip()
    ends = [at for s in stop if (at := text.find(s)) >= 0]
    return text[: min(ends)] if ends else text


def stopped(lm: LanguageModel, ids: Sequence[int], stop: Sequence[str]) -> bool:
    """Whether a stop string has been written, after something else than white space and no open thought."""
    # Only what its last token can have completed is looked at first: a letter is four tokens at most.
    near = ids[-4 * (max(map(len, stop), default=0) + 1) :]
    if not any(s in lm.tokenizer.decode(near, skip_special_tokens=True) for s in stop):
        return False
    answer = _behind_thought(lm.tokenizer.decode(ids, skip_special_tokens=True))
    return answer is not None and any(s in answer.lstrip() for s in stop)


def texts(lm: LanguageModel, answers: Sequence[Sequence[int]], stop: Sequence[str]) -> list[str]:
    """Answers of token ids as strings, cut before a stop string, without surrounding white space."""
    return [cut(lm.tokenizer.decode(ids, skip_special_tokens=True), stop).strip() for ids in answers]


def unanswered(answers: Sequence[str]) -> str:
    """What to tell of answers that end within a thought; empty where none does."""
    count = sum(answer.startswith(OPEN) for answer in answers)
    return (
        f"{count} of {len(answers)} answers end within {OPEN}: raise evaluate.max_answer_tokens"
        if count
        else ""
    )


def _behind_thought(text: str) -> str | None:
    """The text behind a thought at its beginning; None where the thought has no end."""
    if not text.lstrip().startswith(OPEN):
        return text
    _, closed, answer = text.partition(CLOSE)
    return answer if closed else None

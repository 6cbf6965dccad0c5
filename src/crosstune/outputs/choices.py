"""Scoring choices with one forward, in which every shared beginning is read once.

Every label's first token is predicted by the prompt's last token, so labels of one token need the
prompt alone, and only their own columns of the vocabulary. Longer labels are branches behind the
shared prompt, and prompts that begin alike (questions on one passage, exemplars) are branches behind
what they share: each branch sees what it follows and itself, and its tokens are scored in the same
forward. Equal to running every prompt-plus-label on its own.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Unpack

import torch
from torch import Tensor

from crosstune.data.example import Example
from crosstune.errors import UserError
from crosstune.models.attention.choose import BatchForm, lay_out, reading_form, turns
from crosstune.models.attention.trees import Shared, grow
from crosstune.models.fast.kernels import fused
from crosstune.models.language_model import LanguageModel
from crosstune.models.memory import measure as fitting
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.base import Answers, Output, picked
from crosstune.outputs.decoding import vllm_engine
from crosstune.outputs.journal import Stream
from crosstune.outputs.rows import Rows, answer_rows
from crosstune.outputs.settings import EvaluateSettings
from crosstune.outputs.stream import Group, in_a_pass, in_batches, size_of
from crosstune.tasks.base import Task

# fp32 scores of a 262k vocabulary: 128 rows take 134 MB.
ROWS_AT_ONCE = 128


class Choice(Output):
    """The most probable of an example's choices."""

    def rows(self, examples: Sequence[Example], loss: str = "answer") -> Rows:
        """Rows of the right choice, without an end; its first token alone where evaluation compares no more.

        With ``loss: choices`` that token is compared with the other choices' first tokens only.

        Raises:
            UserError: ``loss: choices`` with choices that start alike.
        """
        learned = learned_choice(examples, self.lm.tokens.answer, self.settings, loss)
        return answer_rows(self.lm, examples, learned)

    def answers(self, task: Task, examples: Sequence[Example], **stream: Unpack[Stream]) -> Answers:
        """The choices picked, and the log-probabilities of all."""
        prompts = self.lm.tokens.prompts([example.prompt for example in examples])
        items = [
            ChoiceItem(ids, tuple(tuple(self.lm.tokens.answer(choice)) for choice in example.choices))
            for ids, example in zip(prompts, examples, strict=True)
        ]
        logprobs = score_choices(self.lm, items, self.settings, **stream)
        return picked(examples, logprobs)


class NamedTags(Output):
    """A tag for each word without a head: the most probable of the tags' names, word by word.

    The prompt of a word is the sentence and, on the next line, the sentence again up to the word and a colon.
    All names are compared, so that every answer can be read as tags. Words of a sentence share what is read
    of it. A batch of training is so many words, not sentences.
    """

    def rows(self, examples: Sequence[Example], loss: str = "answer") -> Rows:
        """One row a word: its prompt and its tag."""
        return Choice(self.lm, self.settings).rows([word for e in examples for word in by_word(e)], loss)

    def answers(self, task: Task, examples: Sequence[Example], **stream: Unpack[Stream]) -> Answers:
        """The tags, parted by spaces."""
        sentences = [list(by_word(example)) for example in examples]
        # The journal and progress count sentences.
        reading = Stream(passes=stream.get("passes"))
        words = [word for sentence in sentences for word in sentence]
        tags = iter(Choice(self.lm, self.settings).answers(task, words, **reading).texts)
        if (tell := stream.get("tell")) is not None:
            tell(len(examples))
        return Answers([" ".join(next(tags) for _ in sentence) for sentence in sentences])


def by_word(example: Example) -> Iterator[Example]:
    """A sentence's words as questions with choices."""
    words = example.prompt.split(" ")
    for i, tag in enumerate(example.answers[0].split(" ")):
        prompt = f"{example.prompt}\n{' '.join(words[: i + 1])}:"
        yield replace(example, id=f"{example.id}:{i}", prompt=prompt, answers=(tag,))


def learned_choice(
    examples: Sequence[Example], tokens: Callable[[str], list[int]], settings: EvaluateSettings, loss: str
) -> Callable[[Example], tuple[list[int], tuple[int, ...]]]:
    """What gives an example's learned token ids, and those they are chosen from; see `Choice.rows`."""

    def starts(choices: Sequence[str]) -> tuple[int, ...]:
        return tuple(tokens(choice)[0] for choice in choices)

    among_choices = loss == "choices"
    for choices in {example.choices for example in examples} if among_choices else ():
        if len(set(starts(choices))) < len(choices):
            raise UserError("loss: choices, but two labels start with the same token; use loss: answer")

    def learned(example: Example) -> tuple[list[int], tuple[int, ...]]:
        answer = tokens(example.answers[0])
        if settings.choices == "first-token":
            answer = answer[:1]
        return answer, starts(example.choices) if among_choices else ()

    return learned


Labels = tuple[tuple[int, ...], ...]
"""Token ids of each choice of a question."""


def first_tokens(labels: Labels) -> Labels:
    """The labels' first tokens, which have to differ."""
    firsts = tuple(label[:1] for label in labels)
    if len(set(firsts)) < len(firsts):
        raise UserError("choices: first-token, but two labels start with the same token; use choices: label")
    return firsts


@dataclass(frozen=True, slots=True)
class ChoiceItem:
    """One question: token ids of its prompt and of each label."""

    prompt: list[int]
    labels: Labels

    @property
    def width(self) -> int:
        """Tokens read: the prompt, and of each label all but the last, shared beginnings once."""
        return len(grow(self.texts).tokens)

    @property
    def endings(self) -> list[tuple[int, ...]]:
        """What is read behind the prompt, each ending once: the labels without their last tokens."""
        return list(dict.fromkeys(label[:-1] for label in self.labels))

    @property
    def texts(self) -> list[list[int]]:
        """All that is read: the prompt with each ending."""
        return [[*self.prompt, *ending] for ending in self.endings]


def score_choices(
    lm: LanguageModel, items: Sequence[ChoiceItem], settings: EvaluateSettings, **stream: Unpack[Stream]
) -> list[list[float]]:
    """Log-probability of each choice, normalised over the choices of its question.

    Raises:
        UserError: ``first-token`` with labels that start alike; an empty prompt; one question is more than
            memory holds.
    """
    if not all(item.prompt for item in items):
        raise UserError(
            "an empty prompt, and the model's tokenizer puts nothing in front: no label can be scored"
        )
    if settings.choices == "first-token":
        items = [replace(item, labels=first_tokens(item.labels)) for item in items]
    passes = stream.get("passes") or TokenLimit(settings.tokens_per_pass, lm.device)

    vllm_engine.free(lm)
    widths = [item.width for item in items]
    front = lm.adaptation.front
    together = Shared([item.prompt for item in items], widths, lm.geometry.attention_balance)
    groups, longest = together.groups, front + max(widths, default=0)
    if turns(lm, longest):  # labels of a question are compared with one rotation, other questions' aside
        groups = [[i] for i in range(len(items))]
    form = reading_form(lm, longest)

    def score(batch: list[Group]) -> list[Tensor]:
        some = [[items[i] for i in group.items] for group in batch]
        return _score_batch(lm, some, settings.choices == "label-per-token", form)

    def answer(batch: list[Group]) -> list[list[float]]:
        scores = score(batch)
        passes.tokens += sum(widths[i] for group in batch for i in group.items)
        return [torch.log_softmax(score, dim=0).tolist() for score in scores]

    def measure(group: list[int]) -> tuple[int, int]:
        return 1, together.width(group)

    def fit(batch: list[Group]) -> None:
        def trial(tokens: int) -> fitting.Trial:
            some = batch[: max(1, tokens // batch[0].width)]
            nbytes = fitting.peak(lm.device, lambda: score(some))
            return fitting.Trial(size_of(some, form.fills_up), nbytes)

        fitting.fit(passes, size_of(batch, form.fills_up), trial, lm.device)

    with fused(lm):
        fill, fitted = partial(in_a_pass, device=lm.device), fit if fitting.measures(lm) else None
        return in_batches(groups, measure, answer, passes, stream, fill, form.fills_up, fitted)


@torch.inference_mode()
def _score_batch(
    lm: LanguageModel, groups: Sequence[Sequence[ChoiceItem]], per_token: bool, form: BatchForm
) -> list[Tensor]:
    """One ``[choices]`` fp64 vector an item, comparable within it, group by group."""
    trees = [grow([text for item in group for text in item.texts]) for group in groups]
    if form is BatchForm.BY_ROTATION:  # because of texts that this batch need not have
        form = reading_form(lm, lm.adaptation.front + max(len(tree.tokens) for tree in trees))
    placed = lay_out(form, trees, lm.pad_id, lm.device)
    items: list[ChoiceItem] = []
    row_at: dict[int, int] = {}  # number of the answer row at a position, counted through all lines
    lasts: list[int] = []  # answer row of each prompt's last token
    rows: list[int] = []  # answer row of what predicts each later token of each label
    targets: list[int] = []
    for start, group, tree in zip(placed.starts, groups, trees, strict=True):
        paths = iter(tree.paths)
        for item in group:
            items.append(item)
            n = len(item.prompt)
            path_of = {ending: next(paths) for ending in item.endings}
            for label in item.labels:
                path = path_of[label[:-1]]
                rows += [row_at.setdefault(start + at, len(row_at)) for at in path[n:]]
                targets += label[1:]
            lasts.append(row_at.setdefault(start + path[n - 1], len(row_at)))
    hidden = lm.hidden(placed.ids, placed.layout, rows=torch.tensor(list(row_at), device=lm.device))
    firsts = _first_scores(lm, hidden[torch.tensor(lasts, device=lm.device)], items, whole=per_token)
    rest = _log_probabilities(lm, hidden, rows, targets)
    out, at = [], 0
    for item, first in zip(items, firsts, strict=True):
        score = first.clone()
        for c, label in enumerate(item.labels):
            score[c] += rest[at : at + len(label) - 1].sum()
            at += len(label) - 1
        if per_token:
            score /= torch.tensor([len(label) for label in item.labels])
        out.append(score)
    return out


def _first_scores(lm: LanguageModel, rows: Tensor, items: Sequence[ChoiceItem], whole: bool) -> list[Tensor]:
    """Score of each label's first token: logits, or log-probabilities when lengths are divided by.

    Without that division the vocabulary's normaliser is the same for all labels of a question and
    falls out of the comparison, so only the labels' own columns are computed.
    """
    columns = sorted({label[0] for item in items for label in item.labels})
    place = {token: i for i, token in enumerate(columns)}
    index = torch.tensor(columns, device=rows.device)
    if whole:
        pieces = [torch.log_softmax(lm.logits(part), -1)[:, index] for part in rows.split(ROWS_AT_ONCE)]
    else:
        pieces = [lm.logits(rows, index)]
    scores = torch.cat(pieces).double().cpu()
    return [scores[b, [place[label[0]] for label in item.labels]] for b, item in enumerate(items)]


def _log_probabilities(lm: LanguageModel, hidden: Tensor, rows: list[int], targets: list[int]) -> Tensor:
    """Log-probability of each target at its row, fp64 ``[len(rows)]``; a row named twice is scored once."""
    wanted: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        wanted.setdefault(row, []).append(place)
    logprobs = torch.zeros(len(rows), dtype=torch.float64)
    some = list(wanted)
    for start in range(0, len(some), ROWS_AT_ONCE):
        part = some[start : start + ROWS_AT_ONCE]
        scores = lm.logits(hidden[torch.tensor(part, device=hidden.device)])
        places = [place for row in part for place in wanted[row]]
        at = [k for k, row in enumerate(part) for _ in wanted[row]]
        aim = [targets[place] for place in places]
        logp = scores[at, aim] - torch.logsumexp(scores, -1)[at]
        logprobs[places] = logp.double().cpu()
    return logprobs

"""Written answers: greedy decoding with continuous batching, finished rows being refilled at once; or beams.

A common beginning of prompts (a passage with several questions, exemplars) is read once, and its keys and
values are copied to each. Answers are computed in portions of a few batches: the order of work within a
portion, and so every bit of its result, depends on that portion alone, and a stopped evaluation resumes after
the last whole one.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Unpack

import torch
from torch import Tensor

from crosstune.data.example import Example
from crosstune.errors import UserError
from crosstune.models.attention.cache import DecodingCache, OwnCaches
from crosstune.models.attention.choose import BatchForm, for_writing, lay_out, reading_form, turns
from crosstune.models.attention.trees import Shared, Tree, grow
from crosstune.models.fast.graphs import fetch, stepper
from crosstune.models.fast.kernels import fused
from crosstune.models.fast.weights import packed_weights
from crosstune.models.language_model import LanguageModel
from crosstune.models.memory import generation as budget
from crosstune.models.memory import measure as fitting
from crosstune.models.memory.token_limit import CACHED, TokenLimit
from crosstune.outputs.base import Answers, Output, refuse_nan, written
from crosstune.outputs.decoding import vllm_engine
from crosstune.outputs.decoding.beams import search
from crosstune.outputs.decoding.ends import stopped, texts, unanswered
from crosstune.outputs.journal import Stream
from crosstune.outputs.rows import Rows, answer_rows
from crosstune.outputs.settings import Beams
from crosstune.outputs.stream import Group, in_a_pass, in_batches
from crosstune.tasks.base import Task

# Prompts are read when so many of the rows are free: a few at a time would read the weights anew for little.
REFILL_SHARE = 0.25
# Batches in a portion: at its end rows run empty, and a stopped evaluation loses the portion it was in.
PORTION = 4


class Generation(Output):
    """A written answer."""

    def rows(self, examples: Sequence[Example], loss: str = "answer") -> Rows:
        """Rows of answers that end in the end-of-text token, so that the model learns to stop."""
        tokens, last = self.lm.tokens, self.lm.tokenizer.eos_token_id
        end = [] if last is None else [last]
        return answer_rows(self.lm, examples, lambda example: (tokens.answer(example.answers[0]) + end, ()))

    def check(self, languages: Iterable[str]) -> None:
        """Refuse a model that vLLM would not load as it is."""
        if self.settings.engine == "vllm":
            vllm_engine.check(self.lm)

    def answers(self, task: Task, examples: Sequence[Example], **stream: Unpack[Stream]) -> Answers:
        """The texts written, and the language that each was identified as (`identify`)."""
        prompts = self.lm.tokens.prompts([example.prompt for example in examples])
        longest = self.settings.max_answer_tokens or task.max_answer_tokens
        tokens, beams = self.settings.tokens_per_pass, self.settings.search
        if self.settings.engine == "vllm":
            answers = self._by_vllm(task, prompts, longest, **stream)
        else:
            answers = generate(self.lm, prompts, longest, task.stop, tokens, beams, **stream)
        if (passes := stream.get("passes")) is not None and (line := unanswered(answers)):
            passes.say(line)
        return written(task, examples, answers)

    def _by_vllm(
        self, task: Task, prompts: Sequence[Sequence[int]], longest: int, **stream: Unpack[Stream]
    ) -> list[str]:
        """Answers by vLLM, all at once; what agreed with ours is noted on the passes."""
        passes = stream.get("passes") or TokenLimit(self.settings.tokens_per_pass, self.lm.device)
        ours = partial(generate, self.lm, max_tokens=longest, stop=task.stop, passes=passes)
        before = passes.tokens
        ids, passes.engine = vllm_engine.answers(self.lm, prompts, longest, task.stop, ours)
        passes.tokens = before + sum(map(len, prompts)) + sum(map(len, ids))
        if (tell := stream.get("tell")) is not None:
            tell(len(prompts))
        return texts(self.lm, ids, task.stop)


def generate(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    stop: Sequence[str] = ("\n",),
    tokens_per_pass: int = 8192,
    beams: Beams | None = None,
    **stream: Unpack[Stream],
) -> list[str]:
    """Answers to prompts of token ids, up to ``max_tokens`` or an end-of-text token: greedy, or of ``beams``.

    An answer also ends before a stop string. Of prompts ``tokens_per_pass`` are read at once, unless the
    stream's ``passes`` say so; the cache holds twice as many, or what a GPU's memory is found to take.

    Returns:
        One string a prompt, without surrounding white space.

    Raises:
        UserError: An empty prompt; one prompt is more than memory holds.
    """
    if not all(prompts):
        raise UserError(
            "an empty prompt, and the model's tokenizer puts nothing in front: nothing to go on from"
        )
    passes = stream.get("passes") or TokenLimit(tokens_per_pass, lm.device)
    rows = 1 if beams is None else beams.count
    together = Shared(prompts, [len(prompt) for prompt in prompts], lm.geometry.attention_balance)

    def answer(batch: list[Group]) -> list[str]:
        some = [prompts[i] for group in batch for i in group.items]
        trees = [grow([prompts[i] for i in group.items]) for group in batch]
        decode = _generate if beams is None else partial(_search, beams)
        ids = decode(lm, trees, max_tokens, stop, passes.limit, passes.say, passes.cache)
        passes.tokens += sum(map(len, some)) + sum(map(len, ids))
        return texts(lm, ids, stop)

    def measure(group: list[int]) -> tuple[int, int]:
        return rows * len(group), max(len(prompts[i]) for i in group) + max_tokens

    def fill(limit: int) -> int:
        return PORTION * passes.cache

    longest = max(map(len, prompts), default=0) + max_tokens

    def fit(batch: list[Group]) -> None:
        trees = [grow([prompts[i] for i in group.items]) for group in batch]
        budget.measure(lm, passes, trees, longest, partial(_read, lm, form=BatchForm.PADDED))

    with fused(lm), packed_weights(lm):
        budget.keep_to_memory(lm, passes, longest, rows * len(prompts))
        one_per_row = lm.geometry.apart or turns(lm, lm.adaptation.front + longest)
        fitted = fit if fitting.measures(lm) and not one_per_row else None
        return in_batches(together.groups, measure, answer, passes, stream, fill, fit=fitted)


@torch.inference_mode()
def _generate(
    lm: LanguageModel,
    trees: Sequence[Tree],
    max_tokens: int,
    stop: Sequence[str],
    tokens: int,
    note: Callable[[str], None] | None = None,
    cache: int | None = None,
) -> list[list[int]]:
    """Token ids of the answer to each text of each tree, the ending token left out."""
    answers: list[list[int]] = [[] for tree in trees for _ in tree.paths]
    longest = max(len(path) for tree in trees for path in tree.paths) + max_tokens
    cache = CACHED * tokens if cache is None else cache
    room = min(len(answers), max(*(len(tree.paths) for tree in trees), cache // longest))
    form = _form(lm, trees)
    steps = stepper(lm, for_writing(lm, room, longest), note)
    slots, stop_ids = steps.slots, lm.stop_ids
    waiting, begun = deque(trees), 0
    rows: list[int | None] = []  # which answer each row is writing; None for an empty row
    # Tokens on their way, each with what `rows` was when they were chosen.
    sent: deque[tuple[Callable[[], list[int]], list[int | None]]] = deque()
    over = [False] * len(answers)

    def take(tokens: list[int], of: list[int | None]) -> None:
        """Put tokens behind their answers; rows whose answers end there are free."""
        nonlocal rows
        for i, token in zip(of, tokens, strict=True):
            if i is None or over[i]:
                continue
            if token not in stop_ids:
                answers[i].append(token)
            over[i] = token in stop_ids or len(answers[i]) == max_tokens or stopped(lm, answers[i], stop)
        if ended := [row for row, i in enumerate(rows) if i is not None and over[i]]:
            rows = [None if row in ended else i for row, i in enumerate(rows)]
            rows = [rows[row] for row in slots.drop(ended)]

    try:
        while waiting or sent or any(i is not None for i in rows):
            live = sum(i is not None for i in rows)
            if len(sent) > steps.late or (sent and not live):
                wait, of = sent.popleft()
                take(wait(), of)
            elif waiting and (not live or room - live >= max(len(waiting[0].paths), REFILL_SHARE * room)):
                some = _next(waiting, room - live, in_a_pass(tokens, lm.device), form)
                hidden, places = _read(lm, some, slots, form)
                refuse_nan(bool(hidden.isnan().any()))
                new: list[int | None] = list(range(begun, begun + len(places)))
                begun += len(places)
                rows += [None] * (slots.extent - len(rows))
                for row, i in zip(places, new, strict=True):
                    rows[row] = i
                sent.append((fetch(steps.start(places, hidden, max_tokens)), new))
            else:
                sent.append((fetch(steps()), list(rows)))
    except BaseException:
        lm.steps = None  # the memory may be what was missing
        raise
    return answers


@torch.inference_mode()
def _search(
    beams: Beams,
    lm: LanguageModel,
    trees: Sequence[Tree],
    max_tokens: int,
    stop: Sequence[str],
    tokens: int,
    note: Callable[[str], None] | None = None,
    cache: int | None = None,
) -> list[list[int]]:
    """As `_generate`, by beam search: some trees after the other, every text with all its beams at once."""
    longest = max(len(path) for tree in trees for path in tree.paths) + max_tokens
    cache = CACHED * tokens if cache is None else cache
    form, waiting = _form(lm, trees), deque(trees)
    answers: list[list[int]] = []
    while waiting:
        some = _next(waiting, cache // (longest * beams.count), in_a_pass(tokens, lm.device), form)
        slots = for_writing(lm, beams.count * sum(len(tree.paths) for tree in some), longest)
        first, _ = _read(lm, some, slots, form)
        refuse_nan(bool(first.isnan().any()))

        def step(rows: Tensor, newest: Tensor) -> Tensor:
            slots.take(rows.tolist())  # noqa: B023 - called before the next ones
            return lm.logits(lm.step(newest, slots))  # noqa: B023

        ended = partial(stopped, lm, stop=stop)
        answers += search(lm.logits(first), step, max_tokens, beams, lm.stop_ids, ended)
    return answers


def _form(lm: LanguageModel, trees: Sequence[Tree]) -> BatchForm:
    """The form in which prompts are read."""
    form = reading_form(lm, lm.adaptation.front + max(len(tree.tokens) for tree in trees))
    # Only branches together are long; or `OwnCaches` read one text.
    return BatchForm.PADDED if form is BatchForm.BY_ROTATION else form


def _next(waiting: deque[Tree], room: int, tokens: int, form: BatchForm) -> list[Tree]:
    """The next trees that there is room for and that go through the model at once; one at least."""
    some: list[Tree] = []
    width = count = total = 0
    while waiting:
        width = max(width, len(waiting[0].tokens))
        total += len(waiting[0].tokens)
        count += len(waiting[0].paths)
        if some and (count > room or ((len(some) + 1) * width if form.fills_up else total) > tokens):
            break
        some.append(waiting.popleft())
    return some


def _read(
    lm: LanguageModel, trees: Sequence[Tree], slots: DecodingCache | OwnCaches, form: BatchForm
) -> tuple[Tensor, list[int]]:
    """Read prompts into free rows of the slots.

    Returns:
        The hidden state of each prompt's last token, ``[prompts, hidden]``, and its row.
    """
    front = lm.adaptation.front
    if isinstance(slots, OwnCaches):
        states, rows = [], []
        for text in ([tree.tokens[at] for at in path] for tree in trees for path in tree.paths):
            alone = slots.reader()
            states.append(lm.hidden(torch.tensor([text], device=lm.device), read=alone)[:, -1])
            rows += slots.add(alone, [(0, list(range(front + len(text))))])
        return torch.cat(states), rows
    placed = lay_out(form, trees, lm.pad_id, lm.device)
    read, width = slots.reader(), placed.ids.shape[1]
    paths = [
        (start // width, [start % width + at for at in path])
        for start, tree in zip(placed.starts, trees, strict=True)
        for path in tree.paths
    ]
    lasts = torch.tensor([line * width + path[-1] for line, path in paths], device=lm.device)
    hidden = lm.hidden(placed.ids, placed.layout, read, lasts)
    texts = [(line, [*range(front), *(front + at for at in path)]) for line, path in paths]
    return hidden, slots.add(read, texts)

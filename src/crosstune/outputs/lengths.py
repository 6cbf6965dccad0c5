"""Texts longer than the model has positions for: counted, reported, and refused, cut or left out as set."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from torch import nn

from crosstune.data.example import Example
from crosstune.errors import UserError
from crosstune.models.language_model import LanguageModel
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.rows import reads_pairs
from crosstune.outputs.settings import EvaluateSettings
from crosstune.tasks.base import Task

# Tables with one row a position, by the names that GPT-2, OPT and BERT give them; they end.
_TABLES = frozenset({"wpe", "embed_positions", "position_embeddings"})


# A token takes a byte or more, but for those that a tokenizer puts around a text.
_AROUND = 8
# An encoder reads no answer, at most a mask with a space before it; before a decoder not even that.
MASK = 2
# Between a prompt and one of its choices, at most.
SEPARATORS = 4


def fitted(
    lm: LanguageModel, task: Task, examples: Sequence[Example], settings: EvaluateSettings, passes: TokenLimit
) -> list[Example]:
    """The examples as they are to be answered, with what ``on_too_long`` says done to those that do not fit.

    A method's own prompt takes positions too. ``passes`` counts the texts too long, and says so once; a
    language of which none is left is named.

    Raises:
        UserError: One is too long and may be neither shortened nor left out.
    """
    lm.tokens.as_chat(settings.chat_template, settings.system_prompt)
    # The last token is not read again; vLLM has a position for it all the same.
    written = (settings.max_answer_tokens or task.max_answer_tokens) - (settings.engine == "crosstune")

    def answer(example: Example) -> int:
        return max((len(lm.tokens.answer(choice)) - 1 for choice in example.choices), default=written)

    fitting = _fitted(lm, examples, answer, answer, settings, passes, "texts", mentioned=passes.too_long > 0)
    left = {example.language for example in fitting}
    if gone := dict.fromkeys(example.language for example in examples if example.language not in left):
        passes.say(f"no scores for {', '.join(gone)}: every text is too long and left out")
    return fitting


def fitted_rows(
    lm: LanguageModel, examples: Sequence[Example], settings: EvaluateSettings, passes: TokenLimit
) -> list[Example]:
    """Training examples with the same done to them; ``passes`` are those of training.

    Raises:
        UserError: One is too long and may be neither shortened nor left out; or none is left.
    """
    lm.tokens.as_chat(settings.chat_template, settings.system_prompt)

    def answer(example: Example) -> int:
        return len(lm.tokens.answer(example.answers[0])) + (not example.choices)

    def most(example: Example) -> int:
        return len(example.answers[0].encode()) + 1

    fitting = _fitted(lm, examples, answer, most, settings, passes, "training texts")
    if examples and not fitting:
        raise UserError(f"all {len(examples)} training texts are longer than the positions of {lm.name}")
    return fitting


def _beside(lm: LanguageModel, example: Example) -> int:
    """Tokens that an encoder reads beside a prompt: its longest choice and what parts the two, or a mask.

    An encoder in front of a decoder reads the prompt alone.
    """
    if not lm.geometry.encoder:
        return 0
    if not reads_pairs(lm):
        return MASK
    return max(len(lm.tokens.answer(choice)) for choice in example.choices) + SEPARATORS


def _fitted(
    lm: LanguageModel,
    examples: Sequence[Example],
    answer_of: Callable[[Example], int],
    most: Callable[[Example], int],
    settings: EvaluateSettings,
    passes: TokenLimit,
    what: str,
    mentioned: bool = False,
) -> list[Example]:
    """Those that fit beside what is written (at ``most`` so many tokens), and what becomes of the others."""
    if lm.geometry.encoder or lm.geometry.encoder_layers:
        answer_of = most = partial(_beside, lm)
    positions = getattr(lm.decoder.config, "max_position_embeddings", None)
    if follows_longest(lm):
        positions = lm.geometry.same_rotation
    if not isinstance(positions, int):
        return list(examples)
    room = positions - lm.first_position - lm.adaptation.front
    # Nearly all are shorter by far, and need not be tokenised to know it.
    around = _AROUND + len(lm.tokens.as_read("").encode())
    doubtful = {i for i, e in enumerate(examples) if len(e.prompt.encode()) + most(e) + around > room}
    sizes = iter(map(len, lm.tokens.prompts([examples[i].prompt for i in sorted(doubtful)])))
    fitting, count = [], 0
    for i, example in enumerate(examples):
        if i not in doubtful or (size := next(sizes)) + (answer := answer_of(example)) <= room:
            fitting.append(example)
            continue
        count += 1
        if refuses(lm, settings):
            raise UserError(
                f"{example.language} {example.id}: {size} tokens and {answer} of an answer, where "
                f"{lm.name} has room for {room}; set evaluate.on_too_long to truncate-left or skip"
            )
        if settings.on_too_long == "truncate-left":
            fitting.append(replace(example, prompt=_shortened(lm, example, room - answer)))
        elif settings.on_too_long is None:
            fitting.append(example)
    if count and not mentioned:
        done = {None: "read all the same", "truncate-left": "cut at the left", "skip": "left out"}
        passes.say(
            f"{count} of {len(examples)} {what} are longer than the model's {positions:,} positions and are "
            f"{done[settings.on_too_long]} (evaluate.on_too_long)"
        )
    passes.too_long += count
    return fitting


def follows_longest(lm: LanguageModel) -> bool:
    """Whether the rotation of a long text depends on the texts beside it."""
    return lm.geometry.same_rotation > 0 and not lm.geometry.long_rotation


def refuses(lm: LanguageModel, settings: EvaluateSettings) -> bool:
    """Whether a text that is too long is an error.

    Without a setting it is where positions are learned, one row each, and not computed; where what is
    computed depends on the longest text of a batch (dynamic NTK); or where vLLM reads it.
    """
    if settings.on_too_long is not None or follows_longest(lm) or settings.engine == "vllm":
        return settings.on_too_long in ("error", None)
    return any(
        isinstance(module, nn.Embedding) and name.split(".")[-1] in _TABLES
        for name, module in lm.decoder.named_modules()
    )


def _shortened(lm: LanguageModel, example: Example, room: int) -> str:
    """The longest end of a prompt that takes so many tokens at most; whole characters are cut."""
    prompt = example.prompt
    cut = bisect_left(
        range(len(prompt)), True, key=lambda start: len(lm.tokens.prompts([prompt[start:]])[0]) <= room
    )
    if cut == len(prompt):
        raise UserError(
            f"{example.language} {example.id}: no room for any of its prompt; lower max_answer_tokens or "
            "the length of the prefix"
        )
    return prompt[cut:]

"""Texts longer than the model has positions for: counted, said, and refused, cut or left out if asked."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from crosstune.data.example import Example
from crosstune.errors import UserError
from crosstune.models.language_model import LanguageModel
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.settings import EvaluateSettings
from crosstune.tasks.base import Task

# Tables with one row a position, by the names that GPT-2, OPT and BERT give them; they end.
_TABLES = frozenset({"wpe", "embed_positions", "position_embeddings"})


def fitted(
    lm: LanguageModel, task: Task, examples: Sequence[Example], settings: EvaluateSettings, passes: TokenLimit
) -> list[Example]:
    """The examples as they are to be answered, with what ``on_too_long`` says done to those that do not fit.

    A method's own prompt takes positions too. ``passes`` counts the texts too long, and says so once.

    Raises:
        UserError: One is too long and may be neither shortened nor left out; or none is left.
    """
    positions = getattr(lm.decoder.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or not examples:
        return list(examples)
    room = positions - lm.adaptation.first_position - lm.adaptation.front
    written = (settings.max_answer_tokens or task.max_answer_tokens) - 1
    prompts = lm.tokens.prompts([example.prompt for example in examples])
    fitting, count = [], 0
    for ids, example in zip(prompts, examples, strict=True):
        answer = max((len(lm.tokens.answer(choice)) - 1 for choice in example.choices), default=written)
        if len(ids) + answer <= room:
            fitting.append(example)
            continue
        count += 1
        if settings.on_too_long == "error" or (settings.on_too_long is None and _has_table(lm)):
            raise UserError(
                f"{example.language} {example.id}: {len(ids)} tokens and {answer} of an answer, where "
                f"{lm.name} has room for {room}; set evaluate.on_too_long to truncate-left or skip"
            )
        if settings.on_too_long == "truncate-left":
            fitting.append(replace(example, prompt=_shortened(lm, example, room - answer)))
        elif settings.on_too_long is None:
            fitting.append(example)
    if count and not passes.too_long:
        done = {None: "read all the same", "truncate-left": "cut at the left", "skip": "left out"}
        passes.say(
            f"{count} of {len(examples)} texts are longer than the model's {positions:,} positions and are "
            f"{done[settings.on_too_long]} (evaluate.on_too_long)"
        )
    passes.too_long += count
    if not fitting:
        raise UserError(f"all {count} texts are longer than the {positions:,} positions of {lm.name}")
    return fitting


def _has_table(lm: LanguageModel) -> bool:
    """Whether positions are learned, one row each, and not computed."""
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

"""How many prompts are read and answers written at once, from the memory there is.

On a GPU it is measured (`crosstune.models.memory.measure`): reading a few prompts tells what a pass needs,
decoding steps of a few answers what each answer more needs, and what a pass leaves is theirs. On a CPU only
the size that is fastest counts, the same at every start, for a result's bits may depend on it; the cache is
made smaller only where it is more than the machine's memory, which would end the process.
"""

from collections.abc import Callable, Sequence

import torch

from crosstune.models.attention.cache import LENGTHS, DecodingCache, OwnCaches, row_bytes
from crosstune.models.attention.choose import for_writing
from crosstune.models.attention.trees import Tree
from crosstune.models.memory import machine
from crosstune.models.memory import measure as fitting
from crosstune.models.memory.measure import SHARE, Trial, need
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.models.protocol import Model

# Answers in the two decoding steps that are measured.
FEW, MORE = 4, 16


@torch.inference_mode()
def measure(
    lm: Model,
    passes: TokenLimit,
    trees: Sequence[Tree],
    longest: int,
    read: Callable[[Sequence[Tree], DecodingCache | OwnCaches], object],
) -> None:
    """Set the sizes of passes and cache from a GPU's measured memory; does nothing for few prompts.

    ``trees`` are a first batch of prompts, and ``read`` reads some into free rows, one line each. ``longest``
    is the length in tokens of the longest prompt with its answer.
    """
    lm.steps = None  # what an earlier evaluation has left
    columns = longest + lm.adaptation.front
    width = max(len(tree.tokens) for tree in trees)

    def reading(tokens: int) -> Trial:
        some = trees[: max(1, tokens // width)]
        slots = for_writing(lm, sum(len(tree.paths) for tree in some), longest)
        size = len(some) * max(len(tree.tokens) for tree in some)
        return Trial(size, fitting.peak(lm.device, lambda: read(some, slots)))

    def writing(rows: int) -> Trial:
        ids = torch.zeros(rows, dtype=torch.long, device=lm.device)

        def step() -> None:
            slots = for_writing(lm, rows, longest)
            assert isinstance(slots, DecodingCache)
            slots.lengths = [columns - 1] * rows
            slots.state[LENGTHS, :rows] = columns - 1
            lm.best(lm.step(ids, slots))

        # What a step holds beside the cache is held twice: a recorded one keeps it for itself.
        return Trial(rows, 2 * fitting.peak(lm.device, step) - rows * row_bytes(lm, columns))

    a_pass = fitting.fit(passes, len(trees) * width, reading, lm.device)
    if a_pass is None:
        return
    # Where it fails the cache stays as set; what is wrong the steps themselves will say.
    answers = fitting.MEASURED.attempt(lambda: need(writing(FEW), writing(MORE)), passes.say)
    if answers is not None:
        room = SHARE * fitting.free(lm.device) - a_pass.of(passes.limit)
        _hold(passes, answers.fits(room) * longest)


def keep_to_memory(lm: Model, passes: TokenLimit, longest: int, count: int) -> None:
    """On a CPU, decode fewer answers at once if the cache would exceed available memory.

    ``longest`` is the length in tokens of the longest prompt with its answer, ``count`` the number of
    answers.
    """
    available = machine.at_hand() if lm.device.type == "cpu" else None
    if available is None:
        return
    rows = max(1, int(SHARE * available / row_bytes(lm, longest + lm.adaptation.front)))
    if rows < min(count, passes.cache // longest):
        passes.say(f"  {rows} answers at once fit in the memory of cpu in {passes.doing}")
        _hold(passes, rows * longest)


def _hold(passes: TokenLimit, tokens: int) -> None:
    """Let the cache hold so many tokens; questions that are read together are decoded together."""
    passes.lower_to(tokens)
    passes.cached = tokens / passes.limit

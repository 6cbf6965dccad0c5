"""Memory that runs out: less at once, the same result, and one line said."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from crosstune.errors import UserError
from crosstune.models.memory.machine import ran_out
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.choices import ChoiceItem, score_choices
from crosstune.outputs.rows import TrainingRow
from crosstune.outputs.settings import EvaluateSettings
from crosstune.training.loop import train
from crosstune.training.settings import TrainSettings
from tiny_models import make_method, random_ids

ROWS = [TrainingRow(tuple(random_ids(4 + i % 9, seed=i)), 1 + i % 3) for i in range(22)]
FOUR = TrainSettings(steps=4, batch_size=8, warmup_steps=1, learning_rate=0.01, tokens_per_pass=64)


class Small:
    """Lets a model fail on more than so many tokens at once, as a GPU does: from some call on."""

    def __init__(self, lm: Any, tokens: int, after: int = 0) -> None:
        self.tokens, self.calls, self.after = tokens, 0, after
        self.handle = lm.decoder.register_forward_pre_hook(self.check, with_kwargs=True)

    def check(self, module: Any, args: Any, kwargs: Any) -> None:
        self.calls += 1
        if kwargs["inputs_embeds"].shape[:2].numel() > self.tokens and self.calls > self.after:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def go(lm: Any, case: str, tokens: int, passes: TokenLimit | None = None) -> tuple[dict[str, Any], Any]:
    method = make_method(case)
    method.attach(lm, seed=1)
    try:
        settings = FOUR.model_copy(update={"tokens_per_pass": tokens})
        result = train(method, ROWS, settings, 3, passes=passes)
        return {name: x.detach().clone() for name, x in method.state().items()}, result
    finally:
        method.detach()


@pytest.mark.parametrize("case", ["prefix-hidden", "lora-dropout", "full"])
def test_training_is_as_if_so_from_the_start(tiny_lm: Callable[..., Any], case: str) -> None:
    """The largest part of a step is its last: others went through before it, and must not count twice."""
    lm, messages = tiny_lm("llama"), []
    wanted, expected = go(lm, case, 32)
    passes = TokenLimit(64, doing="training", note=messages.append)
    small = Small(lm, 33)
    weights, result = go(lm, case, 64, passes)
    small.handle.remove()
    assert (passes.limit, passes.halvings) == (32, 1)
    assert messages == ["  memory of cpu ran out in training: 32 tokens at once from here on, not 64"]
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)
    assert (result.curve, result.tokens, result.padded_tokens) == (
        expected.curve,
        expected.tokens,
        expected.padded_tokens,
    )


def test_training_goes_on_from_the_failed_step(tiny_lm: Callable[..., Any]) -> None:
    lm, passes = tiny_lm("llama"), TokenLimit(64)
    wanted, expected = go(lm, "lora", 64)
    small = Small(lm, 33, after=5)
    weights, result = go(lm, "lora", 64, passes)
    small.handle.remove()
    assert passes.halvings == 1
    assert [point["step"] for point in result.curve] == [1, 2, 3, 4]
    assert result.curve[0] == expected.curve[0]
    assert all(torch.allclose(weights[name], wanted[name], atol=1e-5) for name in wanted)


def test_one_example_too_large_is_said_in_a_line(tiny_lm: Callable[..., Any]) -> None:
    lm = tiny_lm("llama")
    Small(lm, 8)
    with pytest.raises(UserError, match=r"ran out in training on one example of 1\d tokens; set"):
        go(lm, "lora", 64)


def test_evaluation_is_as_if_so_from_the_start(tiny_lm: Callable[..., Any]) -> None:
    lm, messages, told = tiny_lm("qwen3"), [], []
    items = [ChoiceItem(random_ids(3 + i % 9, seed=i), ((5, 6), (7,), (8, 9, 10))) for i in range(30)]
    wanted = score_choices(lm, items, EvaluateSettings(tokens_per_pass=50))
    small = Small(lm, 60)
    passes = TokenLimit(200, note=messages.append)
    scores = score_choices(lm, items, EvaluateSettings(tokens_per_pass=200), tell=told.append, passes=passes)
    small.handle.remove()
    assert scores == wanted
    assert (passes.limit, passes.halvings, sum(told)) == (50, 2, 30)
    assert len(messages) == 2
    assert passes.tokens == sum(item.width for item in items)


def test_other_errors_are_not_taken_for_memory() -> None:
    def wrong() -> int:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        TokenLimit(8).attempt(wrong)
    assert ran_out(MemoryError())
    assert not ran_out(ValueError("out of memory"))


REAL = """
import resource, torch
from crosstune.models.memory.token_limit import TokenLimit

said, sizes, held = [], [], []
passes = TokenLimit(1024, note=said.append)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20, resource.RLIM_INFINITY))

def work():
    sizes.append(passes.limit)
    passes.begin(4, passes.limit)
    # First what fits, then as much again: what a failed attempt held has to be let go.
    parts = [torch.zeros(passes.limit // 4, 2**20 // 4) for _ in range(2)]
    return sum(len(part) for part in parts)

while (made := passes.attempt(work)) is None:
    pass
print(made, sizes, len(said))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit on address space")
def test_a_real_failure_of_allocation() -> None:
    """Two tensors of 256 MB do not go into 300; two of 128 do, if the first of the failed ones is gone."""
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[0] == "256 [1024, 512] 1", done.stderr

"""Several runs of a grid stepped as one batch, against a step each: does one pass for many adapters pay?

    python benchmarks/runs_together.py --threads 2 --dtype bfloat16             # 2 runs, 16 examples each
    python benchmarks/runs_together.py --runs 4 --examples 2

LoRAs of different seeds (SIB-200), forward and backward, sides taking turns. Together, every adapter's
texts go through the frozen weights in one line, and each LoRA layer gives each run its own update; a run's
loss and gradients are compared with those of its own step, and the exit code is 1 when they differ. Nothing
in crosstune steps like this; what was found is in NOTES.md.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from crosstune.methods import METHODS
from crosstune.methods.adapters.lora_kernel import Update, _Update
from crosstune.models.attention.choose import BatchForm, lay_out
from crosstune.models.fast.norms import fused_parts
from crosstune.models.language_model import LanguageModel
from crosstune.models.loading.load import load
from crosstune.outputs.registry import OUTPUTS
from crosstune.outputs.rows import TrainingRow
from crosstune.outputs.settings import EvaluateSettings
from crosstune.tasks import make_task
from crosstune.training.batches import Batch, collate, order
from crosstune.training.objectives import answer_loss
from machine import CLOCKS, now, use_clock

# Largest difference of a gradient from that of a run's own step, in bf16, relative to its largest entry.
NOISE = {torch.float32: 1e-3, torch.bfloat16: 0.1}


def in_one_line(lm: LanguageModel, rows: list[TrainingRow]) -> Batch:
    """Training rows as one padding-free batch."""
    return collate(
        rows, lay_out(BatchForm.PADDING_FREE, [row.ids[:-1] for row in rows], lm.pad_id, lm.device)
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo:gemma-3-270m")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--task", default="sib200", help="one of choices")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--examples", type=int, default=16, help="of each run, in a step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a machine in use")
    parser.add_argument("--threads", type=int, help="of PyTorch")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    use_clock(args.clock)
    if args.threads:
        torch.set_num_threads(args.threads)
    lm = load(args.model, device="cpu", dtype=args.dtype)
    examples = make_task(args.task).examples("train", "en")
    rows = OUTPUTS["choice"](lm, EvaluateSettings(choices="first-token")).rows(examples)
    batches = [next(order(rows, args.examples, seed, True)) for seed in range(args.runs)]
    method = METHODS["lora"](METHODS["lora"].Config())
    method.attach(lm, seed=0)
    adapters = [
        {name: start(parameter, seed) for name, parameter in method.parameters().items()}
        for seed in range(args.runs)
    ]
    modules = {id(module): name for name, module in method.wrapped.items()}  # type: ignore[attr-defined]

    def step(runs: list[int]) -> list[Tensor]:
        """Loss of some runs, summed, and each one's gradients."""
        lengths = [sum(len(row.ids) - 1 for row in batches[run]) for run in runs]

        def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
            name, scale = modules[id(module)], module.scaling[active_adapter]
            update: Callable[..., Tensor] = _Update.apply  # type: ignore[assignment]
            pairs = [(adapters[run][f"{name}.A"], adapters[run][f"{name}.B"]) for run in runs]
            if len(runs) == 1:
                return update(result, x, *pairs[0], scale)
            parts = zip(result.split(lengths, 1), x.split(lengths, 1), pairs, strict=True)
            return torch.cat([update(r, part, a, b, scale) for r, part, (a, b) in parts], dim=1)

        line: list[TrainingRow] = [row for run in runs for row in batches[run]]
        wanted = [x for run in runs for x in adapters[run].values()]
        with patch.object(Update, "forward", forward):
            batch = in_one_line(lm, line)
            loss = answer_loss(lm, batch)
            gradients = torch.autograd.grad(loss, wanted)
        return [loss.detach(), *gradients]

    together, apart = list(range(args.runs)), [[run] for run in range(args.runs)]
    lm.model.train()
    with fused_parts(lm.model):
        one, alone = step(together), [step(run) for run in apart]
        wanted = [sum(loss for loss, *_ in alone), *(x for _, *gradients in alone for x in gradients)]
        worst = furthest(one, wanted)
        others = furthest(alone[0][1:], alone[1][1:])
        seconds: dict[str, list[float]] = {"one pass": [], "a pass each": []}
        for turn in range(args.rounds):
            for side in seconds if turn % 2 else reversed(seconds):
                began = now()
                for runs in [together] if side == "one pass" else apart:
                    step(runs)
                seconds[side].append(now() - began)
    for side, took in seconds.items():
        print(f"{side:<12} {statistics.median(took):.3f} s ({min(took):.3f} to {max(took):.3f})")
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    tokens = sum(len(row.ids) - 1 for batch in batches for row in batch)
    print(
        f"one pass is {statistics.median(ratios):.3f} times as fast "
        f"({min(ratios):.3f} to {max(ratios):.3f}); "
        f"{args.runs} runs of {args.examples} examples, {tokens} tokens in all, {str(lm.dtype)[6:]}, "
        f"{torch.get_num_threads()} threads"
    )
    print(
        f"losses and gradients at most {100 * worst:.2g}% apart ({100 * NOISE[lm.dtype]:g}% allowed; "
        f"those of two runs are {100 * others:.2g}% apart)"
    )
    return 0 if worst <= NOISE[lm.dtype] else 1


def furthest(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """Largest difference of two tensors, relative to the largest entry of the second."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(some, others, strict=True))


def start(parameter: Tensor, seed: int) -> Tensor:
    """A run's own weights, neither A nor B zero."""
    generator = torch.Generator().manual_seed(seed)
    return (0.02 * torch.randn(parameter.shape, generator=generator)).requires_grad_()


if __name__ == "__main__":
    sys.exit(main())

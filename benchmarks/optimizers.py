"""Loss curves of full fine-tuning: AdamW over fp32 copies of the weights, and optimizers without copies.

    python benchmarks/optimizers.py                        # Gemma 3 270M in bf16, SIB-200, 24 steps each
    python benchmarks/optimizers.py --steps 6 adamw adafactor
    python benchmarks/optimizers.py --seeds 5 --steps 80   # a tiny model: rounding alone

Same model, batches and rates. ``nearest`` is adafactor with bf16 weights rounded to the nearest, as without
stochastic rounding. Prints each curve, how far it is from the first, and the seconds of a step; writes
results/optimizers.json, form by form. Needs the ``quantize`` extra for adamw-8bit.

With ``--seeds`` what rounding alone does: adafactor over fp32 copies (which weights are rounded from), over
bf16 weights rounded stochastically, and to the nearest. Differences of the mean loss of the last quarter of
the steps from that over copies, with 95% intervals over the seeds (Student's t).
"""

import argparse
import json
import random
import time
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from scipy import stats

from crosstune.methods import METHODS
from crosstune.models.loading.load import load
from crosstune.outputs.registry import OUTPUTS
from crosstune.outputs.rows import TrainingRow
from crosstune.outputs.settings import EvaluateSettings
from crosstune.tasks import make_task
from crosstune.training import optimizers
from crosstune.training.loop import train
from crosstune.training.settings import TrainSettings
from random_model import random_lm

FORMS = ("adamw", "adamw-8bit", "adafactor", "nearest")
TEXT = "{:<11} losses {}; mean of the last 8 {:.4f}; largest difference from {} {:.4f} nats; {:.1f} s a step"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("forms", nargs="*", metavar="FORM", help=", ".join(FORMS))
    parser.add_argument("--model", default="demo:gemma-3-270m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--task", default="sib200")
    parser.add_argument("--layers", type=int, help="the last so many alone, without the embeddings")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "optimizers.json")
    parser.add_argument("--seeds", type=int, help="of a tiny model")
    args = parser.parse_args()
    if args.seeds:
        print(json.dumps(rounding(args.seeds, args.steps), indent=2))
        return
    lm = load(args.model, device=args.device, dtype="bfloat16")
    examples = make_task(args.task).examples("train", "en")
    rows = OUTPUTS["choice"](lm, EvaluateSettings(choices="first-token")).rows(examples)
    results: dict[str, Any] = {}
    rounded = optimizers.round_stochastically
    for form in args.forms or FORMS:
        if form == "nearest":
            optimizers.round_stochastically = lambda values, into, generator: into.copy_(values)
        name = "adafactor" if form == "nearest" else form
        settings = TrainSettings(
            steps=args.steps, batch_size=args.batch, warmup_steps=2, decay="constant", optimizer=name
        )
        method = METHODS["full"](METHODS["full"].Config(layers=args.layers))
        method.attach(lm, seed=0)
        began = time.perf_counter()
        curve = [point["loss"] for point in train(method, rows, settings, seed=0).curve]
        method.detach()
        optimizers.round_stochastically = rounded
        seconds = (time.perf_counter() - began) / args.steps
        first = next(iter(results), form)
        wanted = results.get(first, {}).get("losses", curve)
        apart = max(abs(a - b) for a, b in zip(curve, wanted, strict=True))
        last = curve[-8:]
        results[form] = {"losses": curve, "seconds_a_step": seconds, "largest_difference": apart}
        shown = " ".join(f"{loss:.3f}" for loss in curve)
        print(TEXT.format(form, shown, sum(last) / len(last), first, apart, seconds), flush=True)
        args.out.parent.mkdir(exist_ok=True)
        args.out.write_text(json.dumps(vars(args) | {"out": None, "results": results}, indent=2) + "\n")


def rounding(seeds: int, steps: int, rate: float = 3e-5) -> dict[str, dict[str, float]]:
    """Mean losses of the last quarter of the steps, and how far they are from those over fp32 copies."""
    forms = {"copies": True, "stochastic": False, "nearest": False}
    losses: dict[str, list[float]] = {form: [] for form in forms}
    settings = TrainSettings(
        steps=steps, learning_rate=rate, decay="constant", optimizer="adafactor", by_length=False
    )
    stochastically = optimizers.round_stochastically
    for seed in range(seeds):
        draw = random.Random(seed)
        answer = draw.sample(range(3, 35), 32)  # of each last token
        texts = [[draw.randrange(3, 35) for _ in range(4)] for _ in range(512)]
        rows = [TrainingRow((*text, answer[text[-1] - 3]), 1) for text in texts]
        for form, copies in forms.items():
            if form == "nearest":
                optimizers.round_stochastically = lambda values, into, generator: into.copy_(values)
            method: Any = METHODS["full"]()
            method.attach(random_lm("tiny", torch.device("cpu"), torch.bfloat16), seed=0)
            use_masters = method.use_masters
            method.use_masters = lambda wanted, made=use_masters, copies=copies: made(copies)
            curve = [point["loss"] for point in train(method, rows, settings, seed).curve]
            optimizers.round_stochastically = stochastically
            losses[form].append(fmean(curve[-steps // 4 :]))
        print(seed, {form: round(means[-1], 4) for form, means in losses.items()}, flush=True)
    results = {}
    for form, means in losses.items():
        apart = [a - b for a, b in zip(means, losses["copies"], strict=True)]
        half = float(stats.t.ppf(0.975, seeds - 1)) * stdev(apart) / seeds**0.5
        results[form] = {"loss": fmean(means), "difference": fmean(apart), "half_interval": half}
    return results


if __name__ == "__main__":
    main()

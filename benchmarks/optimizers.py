"""Loss curves of full fine-tuning: AdamW over fp32 copies of the weights, and optimizers without copies.

    python benchmarks/optimizers.py                        # Gemma 3 270M in bf16, SIB-200, 24 steps each
    python benchmarks/optimizers.py --steps 6 adamw adafactor

Same model, batches and rates. ``nearest`` is adafactor with bf16 weights rounded to the nearest, as without
stochastic rounding. Prints each curve, how far it is from the first, and the seconds of a step; writes
results/optimizers.json, form by form. Needs the ``quantize`` extra for adamw-8bit.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from crosstune.methods import METHODS
from crosstune.models.loading.load import load
from crosstune.outputs.registry import OUTPUTS
from crosstune.outputs.settings import EvaluateSettings
from crosstune.tasks import make_task
from crosstune.training import optimizers
from crosstune.training.loop import train
from crosstune.training.settings import TrainSettings

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
    args = parser.parse_args()
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


if __name__ == "__main__":
    main()

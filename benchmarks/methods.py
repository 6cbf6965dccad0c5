"""A training step and the evaluation of each method, beside LoRA's step and the bare model's evaluation.

    python benchmarks/methods.py                       # all, processor time of one thread
    python benchmarks/methods.py dora bottleneck --rounds 5

SIB-200: steps of 16 English sentences, then 96 questions by the first tokens of their choices. In each round
every method takes its turn in the same process; the table has the best round of each.
"""

import argparse
import itertools
import time
from typing import Any

import torch
import transformers

from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.methods.adapters.peft_tuner import TYPES
from crosstune.models.loading.load import load
from crosstune.outputs.evaluate import evaluate
from crosstune.outputs.registry import OUTPUTS
from crosstune.outputs.settings import EvaluateSettings
from crosstune.tasks import make_task
from crosstune.training.loop import train
from crosstune.training.settings import TrainSettings

STEPS, QUESTIONS = 4, 96
METHOD_SETTINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "lora": {},
    "dora": {"name": "peft", "type": "DORA", "r": 4, "lora_alpha": 8},
    "bottleneck": {"width": 40},
    "bottleneck-both": {"name": "bottleneck", "width": 40, "sublayers": "both"},
    "bottleneck-ortho": {"name": "bottleneck", "width": 40, "ortho": 0.1},
    "bottleneck-invertible": {"name": "bottleneck", "width": 40, "invertible": True},
    "houlsby": {"name": "bottleneck", "width": 40, "placement": "houlsby"},
    "pfeiffer": {"name": "bottleneck", "width": 40, "placement": "pfeiffer"},
    "parallel": {"name": "bottleneck", "placement": "parallel"},
    "compacter": {"width": 20},
    "ia3": {},
    "mad-x": {},
    "adamergex": {},
    "full-norms": {"name": "full", "only": "norms"},
    "stack": {"stack": ["lora", {"name": "prefix", "length": 10}]},
}
# PEFT's tuners: sizes where its default does not fit the model, and those that are compared above.
TUNERS: dict[str, dict[str, Any]] = {
    "ADALORA": {"init_r": 6, "target_r": 4},
    "C3A": {"block_size": 64},
    "LOHA": {"r": 4},
    "OFT": {"r": 0, "oft_block_size": 32},
    "VBLORA": {"vector_length": 64},
}
METHOD_SETTINGS |= {
    kind.lower(): {"name": "peft", "type": kind} | TUNERS.get(kind, {})
    for kind in TYPES
    if kind not in ("DORA", "IA3", "LORA")
}


def timed(name: str, lm: Any) -> tuple[float, float]:
    """Seconds of a step, the first left out, and of the evaluation."""
    settings = dict(METHOD_SETTINGS[name])
    kind = METHODS[settings.pop("name", name)]
    method: Any = kind(kind.Config(**settings))
    method.uses = {"en": "en"}  # of `mad-x`, whose language adapters are those of the start
    task, evaluating = make_task("sib200"), EvaluateSettings(choices="first-token")
    rows = OUTPUTS["choice"](lm, evaluating).rows(task.examples("train", "en"))
    questions = {"en": task.examples("test", "en")[:QUESTIONS]}
    method.attach(lm)
    marks = [time.process_time()]
    with lm.adaptation.for_language("en"):
        if method.trains:
            train(
                method,
                rows,
                TrainSettings(steps=STEPS, warmup_steps=2, by_length=False),
                tell=lambda progress: marks.append(time.process_time()),
            )
        began = time.process_time()
        with method.evaluating():
            evaluate(lm, task, questions, evaluating)
        answered = time.process_time() - began
    method.detach()
    steps = [after - before for before, after in itertools.pairwise(marks)][1:]
    return (min(steps) if steps else float("nan")), answered


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("methods", nargs="*", choices=[*METHOD_SETTINGS, []], help="beside none and lora")
    parser.add_argument("--model", default="demo:gemma-3-270m")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    lm = load(args.model, device="cpu", dtype=args.dtype)
    names = list(dict.fromkeys(["none", "lora", *(args.methods or METHOD_SETTINGS)]))
    best = {name: (float("inf"), float("inf")) for name in names}
    for _ in range(args.rounds):
        for name in names:
            try:
                step, answers = timed(name, lm)
            except UserError as error:
                print(f"{name}: {error}")
                continue
            best[name] = min(best[name][0], step), min(best[name][1], answers)
    print(f"{'method':<22} {'step':>7} {'/ LoRA':>7} {'evaluation':>11} {'/ none':>7}")
    for name, (step, answers) in best.items():
        ratios = step / best["lora"][0], answers / best["none"][1]
        print(f"{name:<22} {step:>6.2f}s {ratios[0]:>7.2f} {answers:>10.2f}s {ratios[1]:>7.2f}")


if __name__ == "__main__":
    main()

"""A training step against PEFT with the Hugging Face Trainer, both sides in one run.

    python benchmarks/train_step.py                          # LoRA, Gemma 3 270M, SIB-200, batch of 16
    python benchmarks/train_step.py --method prefix --rounds 5 --out result.json

Same model weights, dtype, batches, initial adapter, optimiser, schedule and clipping; the sides take
turns in blocks of steps, so that neither has the machine at a better time. Reported: median seconds
a step of each side with the quartiles, their ratio, and how far the two loss curves are apart. The
run fails (exit code 1) when the curves differ by more than the dtype's noise: a faster wrong step
does not count. The floor is the arithmetic of the step over the matrix rate measured in this run.
"""

import argparse
import itertools
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from crosstune.methods import METHODS
from crosstune.methods.base import Method
from crosstune.models.language_model import LanguageModel
from crosstune.models.load import load
from crosstune.tasks import make_task
from crosstune.training.batches import Row, order, tokenize
from crosstune.training.loop import rate, train
from crosstune.training.settings import TrainSettings

CONFIGS: dict[str, dict[str, Any]] = {
    "lora": {},
    "soft-prompt": {},
    "prefix": {"space": "kv"},
}
# Largest difference of the two loss curves, relative to the loss (plus 0.01 nats), that rounding explains.
NOISE = {torch.float32: 2e-3, torch.bfloat16: 1e-1}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo:gemma-3-270m")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--method", choices=sorted(CONFIGS), default="lora")
    parser.add_argument("--task", default="sib200", help="its English training split is used")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6, help="a block")
    parser.add_argument("--rounds", type=int, default=3, help="blocks a side")
    parser.add_argument(
        "--order",
        choices=["random", "by-length"],
        default="random",
        help="random: as the Trainer draws batches; by-length: as crosstune does, the best case of the peer",
    )
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    return parser.parse_args()


class Clock(TrainerCallback):
    """Wall time and loss of each Trainer step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        synchronise()
        self.seconds.append(time.perf_counter() - self.began)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kw: Any
    ) -> None:
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class SameOrder(Trainer):
    """The Trainer on rows already in order, with the learning rates crosstune uses."""

    settings: TrainSettings
    peak: float

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer or self.optimizer,
            lambda s: rate(self.settings, 1.0, min(s, num_training_steps), num_training_steps),
        )
        return self.lr_scheduler


def pad(rows: list[dict[str, list[int]]], fill: int) -> dict[str, torch.Tensor]:
    """The usual collator: pad on the right, -100 where nothing is predicted."""
    width = max(len(r["input_ids"]) for r in rows)

    def block(key: str, value: int) -> torch.Tensor:
        return torch.tensor([r[key] + [value] * (width - len(r[key])) for r in rows])

    return {
        "input_ids": block("input_ids", fill),
        "attention_mask": block("attention_mask", 0),
        "labels": block("labels", -100),
    }


def peft_side(base: Any, method: Method, name: str, lm: LanguageModel) -> Any:
    """PEFT's model of the same method with the same initial weights as ``method`` has now."""
    state = {k: v.clone() for k, v in method.state().items()}
    if name == "lora":
        config: Any = peft.LoraConfig(
            r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
        )
        model = peft.get_peft_model(base, config)
        for key, value in model.named_parameters():
            if "lora_" in key:
                side = "A" if "lora_A" in key else "B"
                inner = key.split("base_model.model.", 1)[1].split(".lora_")[0]
                value.data.copy_(state[f"{inner}.{side}"])
    elif name == "soft-prompt":
        config = peft.PromptTuningConfig(num_virtual_tokens=len(state["prompt"]), task_type="CAUSAL_LM")
        model = peft.get_peft_model(base, config)
        model.prompt_encoder["default"].embedding.weight.data.copy_(state["prompt"])
    else:
        length = method.config.length  # type: ignore[attr-defined]
        config = peft.PrefixTuningConfig(num_virtual_tokens=length, task_type="CAUSAL_LM")
        model = peft.get_peft_model(base, config)
        # [layers][2, n, kv] -> [n, layers * 2 * kv]
        stacked = torch.stack([state[f"layers.{i}"] for i in range(lm.geometry.layers)])
        model.prompt_encoder["default"].embedding.weight.data.copy_(
            stacked.permute(2, 0, 1, 3).reshape(length, -1)
        )
    return model


def crosstune_block(
    lm: LanguageModel, args: argparse.Namespace, rows: list[Row], settings: TrainSettings
) -> tuple[list[float], list[float], Method]:
    """Seconds and losses of a block of our steps."""
    kind = METHODS[args.method]
    method = kind(kind.Config(**CONFIGS[args.method]))
    method.attach(lm, seed=0)
    marks = [time.perf_counter()]

    def tell(progress: Any) -> None:
        synchronise()
        marks.append(time.perf_counter())

    result = train(method, rows, settings, seed=0, tell=tell)
    seconds = [b - a for a, b in itertools.pairwise(marks)]
    return seconds, [point["loss"] for point in result.curve], method


def trainer_block(
    lm: LanguageModel, args: argparse.Namespace, rows: list[Row], settings: TrainSettings, folder: str
) -> tuple[list[float], list[float]]:
    """Seconds and losses of a block of PEFT + Trainer steps on the same batches."""
    kind = METHODS[args.method]
    method = kind(kind.Config(**CONFIGS[args.method]))
    method.attach(lm, seed=0)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=lm.dtype).to(lm.device)
    model = peft_side(base, method, args.method, lm)
    peak = method.default_rate
    method.detach()
    batches = order(rows, settings.batch_size, 0, settings.by_length)
    ordered = [row for _ in range(args.steps) for row in next(batches)]
    data = [
        {
            "input_ids": list(r.ids),
            "attention_mask": [1] * len(r.ids),
            "labels": [-100] * (len(r.ids) - r.answer) + list(r.ids[-r.answer :]),
        }
        for r in ordered
    ]
    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            output_dir=out,
            per_device_train_batch_size=settings.batch_size,
            max_steps=args.steps,
            learning_rate=peak,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.clip,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            optim="adamw_torch",
            use_cpu=lm.device.type == "cpu",
            dataloader_num_workers=0,
            logging_nan_inf_filter=False,
        )
        trainer = SameOrder(
            model=model,
            args=arguments,
            train_dataset=data,
            callbacks=[clock],
            data_collator=lambda batch: pad(batch, lm.pad_id),
        )
        trainer.settings = settings
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return clock.seconds, clock.losses


def matrix_rate(lm: LanguageModel) -> float:
    """FLOP/s of a product the shape of the model's MLP, best of ten."""
    g = lm.geometry
    x = torch.randn(1024, g.hidden, device=lm.device, dtype=lm.dtype)
    w = torch.randn(g.intermediate, g.hidden, device=lm.device, dtype=lm.dtype)
    best = float("inf")
    for _ in range(10):
        synchronise()
        began = time.perf_counter()
        torch.nn.functional.linear(x, w)
        synchronise()
        best = min(best, time.perf_counter() - began)
    return 2 * 1024 * g.hidden * g.intermediate / best


def main() -> int:
    args = parse()
    transformers.utils.logging.set_verbosity_error()
    lm = load(args.model, device=args.device, dtype=args.dtype)
    rows = tokenize(lm, make_task(args.task).examples("train", "en"), "choice", first_token=True)
    settings = TrainSettings(
        steps=args.steps, batch_size=args.batch, warmup_steps=2, by_length=args.order == "by-length"
    )
    seconds: dict[str, list[float]] = {"crosstune": [], "peft + Trainer": []}
    curves: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        lm.model.save_pretrained(folder)
        for _ in range(args.rounds):
            took, curves["crosstune"], method = crosstune_block(lm, args, rows, settings)
            method.detach()
            seconds["crosstune"] += took[1:]  # the first step of a block warms up
            took, curves["peft + Trainer"] = trainer_block(lm, args, rows, settings, folder)
            seconds["peft + Trainer"] += took[1:]
    apart = max(
        abs(a - b) / (abs(b) + 0.01)
        for a, b in zip(curves["crosstune"], curves["peft + Trainer"], strict=True)
    )
    batches = order(rows, args.batch, 0, settings.by_length)
    tokens = statistics.mean(sum(len(r.ids) - 1 for r in next(batches)) for _ in range(args.steps))
    g = lm.geometry
    body = g.parameters - g.vocabulary * g.hidden * (1 if g.tied else 2)
    # Forward and the gradient with respect to activations: 2 FLOP a weight and token each; the answers' rows.
    flop = 4 * body * tokens + 4 * args.batch * g.vocabulary * g.hidden
    floor = flop / matrix_rate(lm)
    median = {side: statistics.median(took) for side, took in seconds.items()}
    result = {
        "benchmark": "train_step",
        "method": args.method,
        "model": args.model,
        "dtype": str(lm.dtype)[6:],
        "device": str(lm.device),
        "batch": args.batch,
        "order": args.order,
        "tokens": round(tokens),
        "median_seconds": median,
        "quartiles": {s: statistics.quantiles(t, n=4)[::2] for s, t in seconds.items()},
        "ratio": median["peft + Trainer"] / median["crosstune"],
        "floor_seconds": floor,
        "share_of_floor": floor / median["crosstune"],
        "loss_curves": curves,
        "largest_relative_difference": apart,
        "noise_allowed": NOISE[lm.dtype],
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
        },
        "machine": {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
    }
    for side in seconds:
        low, high = result["quartiles"][side]
        print(f"{side:<16} {median[side]:.3f} s a step  (quartiles {low:.3f} to {high:.3f})")
    print(
        f"ratio {result['ratio']:.2f}; floor {floor:.3f} s, {100 * result['share_of_floor']:.0f}% of the step"
    )
    print("losses, ours and theirs:", *(f"{a:.3f}/{b:.3f}" for a, b in zip(*curves.values(), strict=True)))
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")
    if apart > NOISE[lm.dtype]:
        print(
            f"the loss curves differ by {apart:.3g} of the loss, more than {NOISE[lm.dtype]:g}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

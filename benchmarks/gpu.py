"""Llama 3.1 8B's shape with random weights: every method against PEFT, evaluation against transformers.

    python benchmarks/gpu.py                                     # 8B on the first GPU: nothing is downloaded
    python benchmarks/gpu.py train-lora decode --shape 1b        # some rows, by the beginning of their names
    python benchmarks/gpu.py train --quantize 4bit --checkpointing --batch 16 --length 1024
    python benchmarks/gpu.py --shape tiny --device cpu --dtype float32      # seconds, without a GPU
    python benchmarks/gpu.py --model meta-llama/Llama-3.1-8B     # real weights (the texts stay random tokens)
    python benchmarks/gpu.py --all --minutes 10 --rounds 2       # everything, 8B and 24B: 10 minutes in all
    python benchmarks/gpu.py --plan --memory 80                  # what would fit such a card: needs no GPU

Both sides read the same tokens in the same batches with the same weights (shared, so that both fit) and take
turns; medians, quartiles, tokens a second, share of the matrix rate measured in the run, and on a GPU each
side's peak memory are written as JSON to benchmarks/results/, row by row as each ends. Losses, scores and
answers are compared: the exit code is 1 when they differ by more than rounding, or a row fails. A row that
cannot fit the card (full fine-tuning of 8B on 80 GB) says so and is not tried, one that runs out of memory
says that, one that fails keeps its traceback, and the rest go on. When ``--minutes`` are over, no turn and no
row is begun. Of several GPUs, choose one with CUDA_VISIBLE_DEVICES. Needs the ``dev`` extra, and ``quantize``
for 4 bits.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

import gpu_memory
from crosstune.errors import UserError
from crosstune.models.geometry import Geometry
from crosstune.models.language_model import LanguageModel
from crosstune.models.loading.load import load
from crosstune.models.memory.machine import ran_out
from gpu_evaluation import EVALUATION
from gpu_rows import (
    ANSWER,
    METHODS,
    OPTIMIZERS,
    Bench,
    Options,
    grid_row,
    mask_row,
    packing_row,
    training_row,
)
from harness import Row, Setting, tell, turns
from random_model import SHAPES, random_lm

FIRST = ("lora", "full-8bit")
ROWS: dict[str, Callable[[Bench], Row]] = {
    # Most telling first: when the time is over, the rest is not begun.
    "train-lora": partial(training_row, name="lora"),
    "train-lora-packed": partial(training_row, name="lora", packed=True),
    **{name: EVALUATION[name] for name in ("decode-8", "decode-64", "score-passages", "score")},
    "train-full-8bit": partial(training_row, name="full-8bit"),
    "grid": grid_row,
    **{f"train-{name}": partial(training_row, name=name) for name in METHODS if name not in FIRST},
    **EVALUATION,
    "prefix-mask": mask_row,
    "packing": packing_row,
}
NAMES = tuple(ROWS)

# What --all runs, by what is said of it: its share of the time that is left, and what it adds to the command.
VARIANTS: dict[str, tuple[float, list[str]]] = {
    "8B": (0.6, []),
    "8B over 4 bits": (0.3, ["train-lora", "train-prefix-kv", "--quantize", "4bit"]),
    "24B over 4 bits": (0.4, ["train-lora", "score", "--shape", "24b", "--quantize", "4bit"]),
    "24B in bf16, for 141 GB": (0.6, ["train-lora", "score", "--shape", "24b"]),
    "8B with checkpointing": (1.0, ["train-lora", "train-prefix-kv", "--checkpointing"]),
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"beginnings of names: {', '.join(NAMES)}")
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--model", help="real weights in place of a shape: hub id or folder")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantize", choices=["4bit", "8bit"], help="of the frozen weights, on both sides")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, on both sides")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=512, help="longest text, in tokens")
    parser.add_argument("--steps", type=int, default=6, help="of training a block; the first is left out")
    parser.add_argument("--new-tokens", type=int, default=64, help="written in decoding rows")
    parser.add_argument("--rounds", type=int, default=3, help="blocks a side")
    parser.add_argument("--minutes", type=float, help="begin nothing after so many; without, all is done")
    parser.add_argument("--all", action="store_true", help="one after the other: " + "; ".join(VARIANTS))
    parser.add_argument("--plan", action="store_true", help="say what training rows need, and run nothing")
    parser.add_argument("--memory", type=float, default=80, help="of the card to plan for, in GB")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results", help="folder for the JSON"
    )
    return parser.parse_args()


def needs(name: str, options: Options, g: Geometry, itemsize: int, quantize: str | None) -> dict[str, Any]:
    """What a training row needs, a side; nothing of other rows."""
    if not name.startswith("train-"):
        return {}
    row = name.removeprefix("train-").removesuffix("-packed")
    return {
        side: gpu_memory.training(
            g,
            METHODS[row][0],
            side,
            tokens=options.batch * options.length,
            answers=options.batch * ANSWER,
            itemsize=itemsize,
            quantize=quantize,
            checkpointing=options.checkpointing,
            optimizer=OPTIMIZERS.get(row, ("adamw", ""))[0],
        )
        for side in ("ours", "theirs")
    }


def plan(args: argparse.Namespace) -> None:
    """What each training row would need on a card that is not here."""
    total = args.memory * 1e9
    itemsize = 4 if args.dtype == "float32" else 2
    options = Options(args.checkpointing, args.batch, args.length, args.steps, args.new_tokens)
    print(
        f"{args.shape}, {args.batch} x {args.length} tokens a step, {total / gpu_memory.GIB:.0f} GiB, in GiB:"
    )
    for method in METHODS:
        if METHODS[method][0] == "full" and args.quantize:
            continue  # quantised weights cannot be trained
        for side, need in needs(
            f"train-{method}", options, SHAPES[args.shape], itemsize, args.quantize
        ).items():
            message = (
                "does not fit"
                if need.least > total
                else "fits"
                if need.whole <= 0.95 * total
                else "may not fit"
            )
            print(f"  {method:<15} {side:<7} {need.whole / gpu_memory.GIB:6.1f}  {message} ({need.text()})")


def measure(name: str, setting: Setting, bench: Bench, seconds: float | None = None) -> dict[str, Any]:
    """A row's result, with tokens a second and, on a GPU, peak memory; or why there is none."""
    bench.peaks.clear()
    try:
        row = ROWS[name](bench)
        print(f"\n{name}: {row.title}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            row.prepare(setting, Path(folder))
            result = turns(row, setting, Path(folder), seconds)
    except Exception as error:
        # Whatever it is: the other rows are worth having.
        message = str(error).strip().partition("\n")[0]
        if ran_out(error) or (isinstance(error, UserError) and "memory" in message):
            print(f"  {name}: out of memory: {message}")
            return {"row": name, "out_of_memory": message, "passed": True}
        if isinstance(error, UserError) and "install" in message:
            print(f"  {name}: {message}")
            return {"row": name, "not_installed": message, "passed": True}
        print(f"  {name}: FAILED: {type(error).__name__}: {message}")
        return {"row": name, "error": traceback.format_exc(), "passed": False}
    memory = {side: {"peak": peak, "peak_beyond_libraries": peak} for side, peak in bench.peaks.items()}
    result["memory"] = memory
    if memory:
        share = bench.peaks["ours"] / bench.peaks["theirs"]
        result["memory_share"] = {"peak": share, "peak_beyond_libraries": share}
    tell(row, result, print)
    tokens, seconds = result["work"]["tokens"], result["seconds"]
    result["tokens_per_second"] = {side: tokens / seconds[side]["median"] for side in seconds}
    for side, speed in result["tokens_per_second"].items():
        share = result["share_of_floor" if side == "ours" else "share_of_floor_theirs"]
        print(f"  {side:<7} {speed:,.0f} tokens/s, {100 * share:.0f}% of what the machine can do")
    return result


def free(device: torch.device) -> None:
    """Give back what a row has left."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def every_variant(args: argparse.Namespace) -> int:
    """The same command for each of `VARIANTS`, in a process of its own, which takes its memory with it."""
    rest = [word for word in sys.argv[1:] if word != "--all"]
    began, codes = time.perf_counter(), []
    for text, (share, more) in VARIANTS.items():
        command = [sys.executable, __file__, *more, *rest]
        if args.minutes is not None:
            left = args.minutes - (time.perf_counter() - began) / 60
            command += ["--minutes", f"{max(0.0, share * left):.2f}"]
        print(f"\n== {text} ==", flush=True)
        codes.append(subprocess.run(command, check=False).returncode)
    return max(codes)


def run_row(name: str, args: argparse.Namespace, setting: Setting, bench: Bench, left: float | None) -> bool:
    """Measure a row, or say that it cannot fit, and write what came of it; whether it passed."""
    device, dtype, g = setting.torch_device, setting.torch_dtype, bench.lm.geometry
    need = needs(name, bench.options, g, dtype.itemsize, args.quantize)
    total = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else float("inf")
    why = {side: text for side, n in need.items() if (text := gpu_memory.does_not_fit(n, total))}
    if why:
        print(f"\n{name}: " + "; ".join(f"{side} {text}" for side, text in why.items()))
        result: dict[str, Any] = {"row": name, "does_not_fit": why, "passed": True}
    else:
        result = measure(name, setting, bench, left)
        free(device)
    result |= {
        "predicted_memory": {side: asdict(n) for side, n in need.items()},
        "options": asdict(bench.options) | {"quantize": args.quantize},
        "shape": asdict(g),
    }
    what = Path(args.model).name if args.model else args.shape
    marks = ["gpu", name, what, device.type, str(dtype).removeprefix("torch."), args.quantize]
    marks += ["checkpointing"] if args.checkpointing else []
    (args.out / ("-".join(filter(None, marks)) + ".json")).write_text(json.dumps(result, indent=2) + "\n")
    return bool(result["passed"])


def model_of(args: argparse.Namespace, setting: Setting) -> LanguageModel:
    """The model that all rows share."""
    if setting.torch_device.type == "cuda" and torch.cuda.device_count() > 1:
        raise UserError(
            "several GPUs are visible, and the HF Trainer would spread its side over them: "
            "CUDA_VISIBLE_DEVICES=0 python benchmarks/gpu.py ..."
        )
    try:
        if args.model:
            return load(args.model, device=args.device, dtype=args.dtype, quantize=args.quantize)
        return random_lm(args.shape, setting.torch_device, setting.torch_dtype, args.quantize)
    except torch.OutOfMemoryError as error:
        raise UserError(f"the weights of {setting.model} do not fit on {setting.torch_device}") from error


def main() -> int:
    began = time.perf_counter()
    args = parse()
    transformers.utils.logging.set_verbosity_error()
    for wish in args.rows:
        if not any(name.startswith(wish) for name in NAMES):
            print(f'no row "{wish}"; rows: {", ".join(NAMES)}', file=sys.stderr)
            return 2
    if args.plan:
        plan(args)
        return 0
    if args.all:
        return every_variant(args)
    setting = Setting(args.model or f"random:{args.shape}", args.dtype, args.device, args.rounds)
    options = Options(args.checkpointing, args.batch, args.length, args.steps, args.new_tokens)
    try:
        bench = Bench(model_of(args, setting), options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    passed = True
    for name in NAMES:
        if args.rows and not any(name.startswith(wish) for wish in args.rows):
            continue
        if args.quantize and name.startswith("train-full"):
            continue  # quantised weights cannot be trained
        left = None if args.minutes is None else 60 * args.minutes - (time.perf_counter() - began)
        if left is not None and left <= 0:
            print(f"\n{name}: not begun, {args.minutes:g} minutes are over")
            continue
        passed &= run_row(name, args, setting, bench, left)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

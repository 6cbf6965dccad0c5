"""Llama 3.1 8B's shape with random weights: every method against PEFT, evaluation against transformers.

    python benchmarks/gpu.py                                     # 8B on the first GPU: nothing is downloaded
    python benchmarks/gpu.py train-lora decode --shape 1b        # some rows, by the beginning of their names
    python benchmarks/gpu.py train --quantize 4bit --checkpointing --batch 16 --length 1024
    python benchmarks/gpu.py --shape tiny --device cpu --dtype float32      # seconds, without a GPU
    python benchmarks/gpu.py --model meta-llama/Llama-3.1-8B     # real weights (the texts stay random tokens)

Both sides read the same tokens in the same batches with the same weights (shared, so that both fit) and take
turns; medians, quartiles, tokens a second, share of the matrix rate measured in the run, and on a GPU each
side's peak memory are written as JSON to benchmarks/results/. Losses, scores and answers are compared: the
exit code is 1 when they differ by more than rounding. A side that does not fit in memory says so.
With several GPUs, choose one with CUDA_VISIBLE_DEVICES. Needs the ``dev`` extra, and ``quantize`` for 4 bits.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from crosstune.errors import UserError
from crosstune.models.load import load
from gpu_evaluation import decoding_row, graph_row, scoring_row
from gpu_rows import METHODS, Bench, Options, grid_row, mask_row, packing_row, training_row
from harness import Row, Setting, tell, turns
from random_model import SHAPES, random_lm

NAMES = (
    *(f"train-{name}" for name in METHODS),
    *("score", "decode", "decode-static", "decode-graphs", "prefix-mask", "packing", "grid"),
)


def rows_of(bench: Bench) -> list[Row]:
    return [
        *(training_row(bench, name) for name in METHODS),
        scoring_row(bench),
        decoding_row(bench, "decode", "HF generate", {}),
        decoding_row(bench, "decode-static", "HF generate, static cache", {"cache_implementation": "static"}),
        graph_row(bench),
        mask_row(bench),
        packing_row(bench),
        grid_row(bench),
    ]


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
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results", help="folder for the JSON"
    )
    return parser.parse_args()


def measure(row: Row, setting: Setting, bench: Bench) -> dict[str, Any]:
    """A row's result, with tokens a second and, on a GPU, peak memory; or that memory ran out."""
    print(f"\n{row.name}: {row.title}")
    bench.peaks.clear()
    try:
        with tempfile.TemporaryDirectory() as folder:
            row.prepare(setting, Path(folder))
            result = turns(row, setting, Path(folder))
    except (torch.OutOfMemoryError, UserError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "memory" not in str(error):
            raise
        print(f"  out of memory: {str(error).splitlines()[0]}")
        return {"row": row.name, "title": row.title, "out_of_memory": str(error), "passed": True}
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


def main() -> int:
    args = parse()
    transformers.utils.logging.set_verbosity_error()
    for wish in args.rows:
        if not any(name.startswith(wish) for name in NAMES):
            print(f'no row "{wish}"; rows: {", ".join(NAMES)}', file=sys.stderr)
            return 2
    name = args.model or f"random:{args.shape}"
    setting = Setting(name, args.dtype, args.device, args.rounds)
    try:
        device, dtype = setting.torch_device, setting.torch_dtype
        if args.model:
            lm = load(args.model, device=args.device, dtype=args.dtype, quantize=args.quantize)
        else:
            lm = random_lm(args.shape, device, dtype, args.quantize)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    options = Options(args.checkpointing, args.batch, args.length, args.steps, args.new_tokens)
    bench = Bench(lm, options)
    args.out.mkdir(parents=True, exist_ok=True)
    passed = True
    for row in rows_of(bench):
        if args.rows and not any(row.name.startswith(wish) for wish in args.rows):
            continue
        if args.quantize and row.name == "train-full":
            continue  # quantised weights cannot be trained
        result = measure(row, setting, bench) | {
            "options": asdict(options) | {"quantize": args.quantize},
            "shape": asdict(lm.geometry),
        }
        passed &= result["passed"]
        what = Path(args.model).name if args.model else args.shape
        marks = ["gpu", row.name, what, device.type, str(dtype).removeprefix("torch."), args.quantize]
        marks += ["checkpointing"] if args.checkpointing else []
        file = args.out / ("-".join(filter(None, marks)) + ".json")
        file.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

"""What a language costs beyond its rows: the same questions as one language's, and spread over many.

    python benchmarks/one_more_language.py                  # SIB-200, 64 questions, 1 and 16 languages

English questions stand under the names of all languages, so that the model's work is the same both times;
what differs is reading each language's file and keeping its results apart. One model is loaded for all. The
exit code is 1 when a language costs more than the 0.3 s that are allowed.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch

from crosstune.evaluation.evaluate import evaluate
from crosstune.evaluation.settings import EvaluateSettings
from crosstune.models.load import load
from crosstune.tasks import make_task
from machine import CLOCKS, facts, now, use_clock

ALLOWED = 0.3


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo:gemma-3-270m")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--task", default="sib200")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--languages", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a machine in use")
    parser.add_argument("--threads", type=int, help="of PyTorch")
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    args = parser.parse_args()
    use_clock(args.clock)
    if args.threads:
        torch.set_num_threads(args.threads)
    lm = load(args.model, dtype=args.dtype)
    codes = make_task(args.task).languages()[: args.languages]
    questions = make_task(args.task).examples("test", "en")[: args.questions]
    seconds: dict[int, list[float]] = {1: [], len(codes): []}
    for turn in range(args.rounds + 1):
        for count in seconds if turn % 2 else reversed(seconds):
            task = make_task(args.task)  # a new one, so that files are read again
            began = now()
            for code in codes[:count]:
                task.examples("test", code)
            spread = {code: questions[place::count] for place, code in enumerate(codes[:count])}
            evaluate(lm, task, spread, EvaluateSettings())
            if turn:  # the first one warms up, and tokenises
                seconds[count].append(now() - began)
    middle = {count: statistics.median(took) for count, took in seconds.items()}
    fixed = (middle[len(codes)] - middle[1]) / (len(codes) - 1)
    result = {
        "benchmark": "one_more_language",
        "task": args.task,
        "questions": len(questions),
        "seconds_by_languages": seconds,
        "fixed_seconds_a_language": fixed,
        "allowed": ALLOWED,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "machine": facts(lm.device),
    }
    for count, took in seconds.items():
        print(f"{count:3} languages: {middle[count]:.3f} s ({min(took):.3f} to {max(took):.3f})")
    print(
        f"{1000 * fixed:.1f} ms a language beyond its rows ({1000 * ALLOWED:.0f} allowed); one load for all"
    )
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if fixed <= ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main())

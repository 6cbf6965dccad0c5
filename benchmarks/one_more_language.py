"""What a language costs beyond its rows: the same questions as one language's, and spread over many.

    python benchmarks/one_more_language.py                  # SIB-200, 64 questions, 1, 4 and 16 languages

English questions stand under the names of all languages, so that the model's work is the same every time;
what differs is reading each language's file and keeping its results apart. One model is loaded for all. The
exit code is 1 when a language costs more than the 0.3 s that are allowed (the slope of the line through the
numbers of languages, in the worst round), or when a question is answered otherwise among more languages.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch

from crosstune.models.loading.load import load
from crosstune.outputs.evaluate import evaluate
from crosstune.outputs.settings import EvaluateSettings
from crosstune.tasks import make_task
from machine import CLOCKS, facts, now, use_clock

ALLOWED = 0.3
# Of the answers: other neighbours in a batch round otherwise, and a near tie may fall the other way.
ALIKE = 0.95


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo:gemma-3-270m")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--task", default="sib200")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--languages", type=int, nargs="+", default=[1, 4, 16], help="how many at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a machine in use")
    parser.add_argument("--threads", type=int, help="of PyTorch")
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    args = parser.parse_args()
    use_clock(args.clock)
    if args.threads:
        torch.set_num_threads(args.threads)
    lm = load(args.model, dtype=args.dtype)
    codes = make_task(args.task).languages()
    questions = make_task(args.task).examples("test", "en")[: args.questions]
    seconds: dict[int, list[float]] = {count: [] for count in args.languages}
    answers: dict[int, list[str]] = {}
    for turn in range(args.rounds + 1):
        for count in seconds if turn % 2 else reversed(seconds):
            task = make_task(args.task)  # a new one, so that files are read again
            began = now()
            for code in codes[:count]:
                task.examples("test", code)
            spread = {code: questions[place::count] for place, code in enumerate(codes[:count])}
            table = evaluate(lm, task, spread, EvaluateSettings())
            if turn:  # the first one warms up, and tokenises
                seconds[count].append(now() - began)
            predictions = dict(zip(table["example"], table["prediction"], strict=True))
            answers[count] = [predictions[question.id] for question in questions]
    lines = [
        statistics.linear_regression(list(seconds), took) for took in zip(*seconds.values(), strict=True)
    ]
    slopes, fixed = [line.slope for line in lines], [line.intercept for line in lines]
    same = [
        sum(a == b for a, b in zip(answers[count], answers[args.languages[0]], strict=True))
        for count in seconds
    ]
    passed = max(slopes) <= ALLOWED and min(same) >= ALIKE * len(questions)
    result = {
        "benchmark": "one_more_language",
        "task": args.task,
        "questions": len(questions),
        "seconds_by_languages": seconds,
        "seconds_a_language": slopes,
        "seconds_fixed": fixed,
        "same_answers": same,
        "allowed": ALLOWED,
        "passed": passed,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "machine": facts(lm.device),
    }
    for count, took in seconds.items():
        middle = statistics.median(took)
        print(f"{count:3} languages: {middle:.3f} s ({min(took):.3f} to {max(took):.3f})")
    print(
        f"{1000 * statistics.median(slopes):.1f} ms a language beyond its rows ({1000 * min(slopes):.1f} to "
        f"{1000 * max(slopes):.1f} in {len(slopes)} rounds; {1000 * ALLOWED:.0f} allowed), "
        f"{statistics.median(fixed):.3f} s whatever their number; one load for all"
    )
    print(f"{min(same)} of {len(questions)} answers the same")
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

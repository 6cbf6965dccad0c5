"""Finished runs through lm-evaluation-harness's command line: are its answers those that crosstune keeps?

    pip install lm-eval==0.4.13
    python benchmarks/parity_lm_eval_runs.py runs/mine        # choices and written answers, of any store

The tasks of the store are written as YAML tasks of the harness, and `lm_eval --model crosstune` answers them
with each run. Compared, example by example: the text of the answer, and the log-probabilities of choices,
normalised over the question. The script fails (exit code 1) where an answer differs.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crosstune.exporting.lm_eval_tasks import write_tasks
from crosstune.store import store as stored


def samples(folder: Path) -> Iterator[dict[str, Any]]:
    for file in folder.rglob("samples_*.jsonl"):
        with file.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def normalised(scores: list[float]) -> list[float]:
    top = max(scores)
    total = top + math.log(sum(math.exp(score - top) for score in scores))
    return [score - total for score in scores]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    store = parser.parse_args().store
    differ = 0
    with tempfile.TemporaryDirectory() as name:
        files, remarks = write_tasks(store, Path(name, "tasks"))
        print(*remarks, sep="\n")
        for run in stored.read_runs(store):
            of_run = [str(file) for file in files if file.match(f"crosstune_{run.task.name}_*.yaml")]
            out = Path(name, run.id)
            model = ["--model", "crosstune", "--model_args", f"run={store / run.id}"]
            rest = ["--tasks", ",".join(of_run), "--log_samples", "--output_path", str(out)]
            command = [sys.executable, "-m", "lm_eval", "run", *model, *rest]
            subprocess.run(command, check=True, capture_output=True)
            rows = {
                (row["language"], row["example"]): row
                for row in stored.read_predictions(store, [run]).iter_rows(named=True)
            }
            equal = number = 0
            largest = 0.0
            for sample in samples(out):
                doc, responses = sample["doc"], [response[0] for response in sample["resps"]]
                row = rows[doc["language"], doc["id"]]
                number += 1
                if doc["choices"]:
                    scores = normalised([float(score) for score, _ in responses])
                    largest = max(largest, *map(abs, map(float.__sub__, scores, row["choice_logprobs"])))
                    answer = doc["choices"][scores.index(max(scores))]
                else:
                    answer = responses[0].strip()
                equal += answer == row["prediction"]
            differ += number - equal
            print(
                f"{run.task.name} · {run.label}: {equal} of {number} equal, log-probabilities {largest:.1e}"
            )
    if differ:
        sys.exit(f"{differ} answers differ")


if __name__ == "__main__":
    main()

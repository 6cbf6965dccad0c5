"""The same prompts and model through lm-evaluation-harness and through crosstune: do they choose alike?

    pip install lm-eval==0.4.13
    python benchmarks/parity_lm_eval.py                    # XNLI, XCOPA, Belebele; Gemma 3 270M, fp32
    python benchmarks/parity_lm_eval.py --tasks xcopa --languages et th --limit 20

crosstune writes each task's prompts, choices and gold answers to a JSON file; local YAML tasks of the
harness read them, and its own Hugging Face backend scores them on a plain transformers model. Compared,
example by example: the choice picked, and the log-probabilities of the choices, normalised over the
question. The run fails (exit code 1) under 99.5% agreement. Pairs that differ are shown with their margin.
"""

import argparse
import importlib.metadata
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_eval
import torch
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM

from crosstune.data.example import Example
from crosstune.models.loading.demo import prepare
from crosstune.models.loading.load import load
from crosstune.outputs.evaluate import evaluate
from crosstune.outputs.settings import EvaluateSettings
from crosstune.store.provenance import hardware
from crosstune.tasks import make_task

LEAST = 0.995
TASKS: dict[str, tuple[str, dict[str, object]]] = {
    "xnli": ("xnli", {}),
    "xnli-harness-form": ("xnli", {"form": "lm-eval", "prompt_language": "target"}),
    "xcopa": ("xcopa", {"prompt_language": "target"}),
    "belebele": ("belebele", {}),
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo:gemma-3-270m", help="a demo model or a folder")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--languages", nargs="+", help="of each task; some of several scripts by default")
    parser.add_argument("--limit", type=int, default=100, help="examples a language")
    parser.add_argument("--batch", type=int, default=8, help="of the harness")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    return parser.parse_args()


def normalised(scores: Sequence[float]) -> list[float]:
    """Log-probabilities over the choices of one question."""
    top = max(scores)
    total = top + math.log(sum(math.exp(score - top) for score in scores))
    return [score - total for score in scores]


def through_harness(harness: HFLM, name: str, examples: Sequence[Example]) -> list[list[float]]:
    """Log-probabilities of each example's choices, normalised, by lm-evaluation-harness."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "examples.json")
        rows = [
            {"number": i, "prompt": e.prompt, "choices": list(e.choices), "gold": e.gold}
            for i, e in enumerate(examples)
        ]
        data.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "prompt",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "metric_list": [{"metric": "acc"}],
        }
        Path(folder, f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
        evaluated = lm_eval.simple_evaluate(
            model=harness,
            tasks=[name],
            task_manager=TaskManager(include_path=folder, include_defaults=False),
            log_samples=True,
            bootstrap_iters=0,
        )
    samples = sorted(evaluated["samples"][name], key=lambda sample: sample["doc"]["number"])
    return [normalised([float(answer[0][0]) for answer in sample["resps"]]) for sample in samples]


def compare(
    examples: Sequence[Example], ours: list[list[float]], theirs: list[list[float]]
) -> dict[str, Any]:
    """Agreement of the choices picked, and the largest difference of a log-probability."""

    def best(scores: list[float]) -> int:
        return max(range(len(scores)), key=scores.__getitem__)

    apart = []
    largest = 0.0
    for example, scores, other in zip(examples, ours, theirs, strict=True):
        largest = max(largest, *(abs(a - b) for a, b in zip(scores, other, strict=True)))
        if best(scores) != best(other):
            top = sorted(other, reverse=True)
            apart.append({"language": example.language, "id": example.id, "harness_margin": top[0] - top[1]})
    return {
        "examples": len(examples),
        "agreement": 1 - len(apart) / len(examples),
        "largest_difference_nats": largest,
        "different": apart,
    }


def main() -> None:
    arguments = parse()
    lm = load(arguments.model, device="cpu", dtype="float32")
    folder = prepare(arguments.model) if arguments.model.startswith("demo:") else Path(arguments.model)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    # The tokenizer puts the beginning-of-text token in front where the model has one; so must the harness.
    bos = lm.tokenizer.bos_token_id
    begins = bos is not None and lm.tokens.prompts(["a"])[0][0] == bos
    harness = HFLM(
        pretrained=plain,
        tokenizer=lm.tokenizer,
        device="cpu",
        batch_size=arguments.batch,
        add_bos_token=begins,
    )
    results = {}
    for name in arguments.tasks:
        kind, options = TASKS[name]
        task = make_task(kind, options)
        offered = task.languages()
        wanted = arguments.languages or ["en", "de", "sw", "th", "zh"]
        per = {code: task.examples("test", code)[: arguments.limit] for code in wanted if code in offered}
        flat = [example for examples in per.values() for example in examples]
        table = evaluate(lm, task, per, EvaluateSettings(choices="label"))
        results[name] = compare(
            flat, table["choice_logprobs"].to_list(), through_harness(harness, name, flat)
        ) | {"languages": list(per), "accuracy": table["score"].mean()}
        shown = results[name]
        print(
            f"{name:18} {', '.join(per):20} n={shown['examples']:4}  agreement {shown['agreement']:.2%}  "
            f"largest difference {shown['largest_difference_nats']:.1e} nats",
            flush=True,
        )
        for pair in shown["different"]:
            print(f"  differs: {pair}")
    if arguments.out is not None:
        names = ("lm_eval", "transformers", "torch")
        facts = {
            "model": arguments.model,
            "dtype": "float32",
            "limit": arguments.limit,
            "versions": {name: importlib.metadata.version(name) for name in names},
            "hardware": hardware(),
        }
        arguments.out.write_text(json.dumps(facts | {"tasks": results}, indent=1) + "\n", encoding="utf-8")
    if any(result["agreement"] < LEAST for result in results.values()):
        sys.exit(f"an agreement is under {LEAST:.1%}")


if __name__ == "__main__":
    main()

"""A made-up study: three tasks, five methods, 24 languages, two seeds, and hostile text."""

import hashlib
import random
from typing import Any

import polars as pl

from crosstune.store.record import RunRecord
from records import as_record

CODES = "en de nl ru pl es fr hi bn fa tr uz ar he am sw zu yo zh ja ko th vi ta"
LANGUAGES = CODES.split()
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><!--<img src=http://evil.example/x.png onerror=alert(1)>",
    "[bold red]markup[/] \x1b[31mred\x07 \x00 \u202egnp.exe",
    "{{ 7 * 7 }} ${7*7} {% raw %}",
    "long " * 20_000,
    "",
]
METHODS = [
    ({"name": "none"}, "none", 0),
    ({"name": "soft-prompt", "length": 10}, "soft prompt 10", 6_400),
    ({"name": "prefix", "space": "hidden", "length": 10}, "prefix hidden 10", 115_200),
    ({"name": "llama-adapter", "length": 10}, "llama-adapter 10", 115_272),
    ({"name": "lora", "rank": 4, "targets": ["q", "v"]}, "lora r4 q,v", 184_320),
]
TASKS = [
    ("topics", "choice", ["accuracy"]),
    ("number-words", "generation", ["value", "exact", "in_english"]),
    ("<b>qa</b>", "generation", ["f1", "exact"]),
]
EXAMPLES = 20


def make_run(task: tuple[str, str, list[str]], number: int, seed: int, **changes: Any) -> RunRecord:
    name, kind, metrics = task
    config, label, parameters = METHODS[number]
    run: dict[str, Any] = {
        "study": "synthetic",
        "model": "demo:tiny",
        "method": config,
        "label": label,
        "task": {
            "name": name,
            "version": 1,
            "kind": kind,
            "metrics": metrics,
            "options": {},
            "splits": {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"},
        },
        "source_language": "en",
        "languages": LANGUAGES,
        "seed": seed,
        "train": None
        if number == 0
        else {"learning_rate": 0.03 if number < 4 else 0.001, "steps": 60, "batch_size": 16, "seed": seed},
        "trained_parameters": parameters,
        "zero_shot": True,
        "evaluate": {"limit": None, "choices": "label", "tokens_per_pass": 8192, "max_answer_tokens": None},
        "overlap": {"prompts": 3 if name == "topics" else 0, "ids": 0},
        "fingerprints": {
            "train": "aa11",
            "dev": "bb22",
            "test": {code: f"cc-{name}-{code}" for code in LANGUAGES},
        },
        "versions": {"crosstune": "0.1.0", "torch": "2.9"},
        "hardware": {"cpu": "<img src=x onerror=alert(1)>", "cores": 2},
        "dtype": "bfloat16",
        "device": "cpu",
        "cost": {"train_seconds": 45.2, "evaluate_seconds": 310.0, "peak_memory_bytes": 2_000_000_000},
        "curve": []
        if number == 0
        else [
            {"step": s, "loss": 2.5 / (1 + s * (number + 1) / 40), "learning_rate": 0.01}
            for s in range(1, 61)
        ],
    }
    run |= changes
    run["id"] = changes.get("id") or hashlib.sha256(repr(sorted(run.items())).encode()).hexdigest()[:16]
    return as_record(run)


def make_predictions(run: RunRecord, examples: int = EXAMPLES) -> list[dict[str, Any]]:
    random_of = random.Random(run.id)
    skill = [name for _, name, _ in METHODS].index(run.label) if run.label in str(METHODS) else 2
    rows = []
    for place, language in enumerate(run.languages):
        reach = 0.45 + 0.07 * skill - (0 if language == run.source_language else 0.08 + 0.012 * place)
        for example in range(examples):
            right = random_of.random() < reach
            score = (
                float(right)
                if run.task.kind == "choice"
                else round(random_of.random() * reach + reach / 4, 3)
            )
            row = {
                "run": run.id,
                "language": language,
                "example": f"{example}",
                "prompt_hash": "0" * 16,
                "prediction": "right answer"
                if right
                else random_of.choice([*HOSTILE[:4], HOSTILE[5], "عشرون", "二十"]),
                "gold": {"ar": "عشرون", "he": "עשרים", "zh": "二十"}.get(language, "twenty"),
                "score": score,
                "choice_logprobs": [-0.5, -1.5] if run.task.kind == "choice" else None,
                "metric.exact": None if run.task.kind == "choice" else float(score > 0.5),
                "metric.in_english": float(random_of.random() < 0.4)
                if run.task.name == "number-words"
                else None,
            }
            rows.append(row)
    if run.seed == 0 and skill == 4:
        for row in rows[-examples:]:
            row["prediction"] = HOSTILE[4]
    return rows


def frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, infer_schema_length=None)

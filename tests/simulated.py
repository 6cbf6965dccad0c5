"""Simulated runs whose truth is known: the chance of a right answer of each method in each language.

Examples are harder or easier for all methods alike, languages share examples, and seeds move a method's
chances, as in real predictions.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from crosstune.store import store
from crosstune.store.record import RunRecord
from records import as_record

LANGUAGES = [
    *(
        "en",
        "de",
        "nl",
        "ru",
        "pl",
        "es",
        "fr",
        "hi",
        "bn",
        "fi",
        "et",
        "hu",
        "tr",
        "kk",
        "az",
        "ar",
        "he",
        "am",
    ),
    *("sw", "zu", "xh", "id", "jv", "tl", "ta", "te", "kn"),
]
"""English and 26 targets: eight families with three languages or more, of all resource classes."""

Truth = Callable[[str], float]


def simulate(
    methods: Mapping[str, float | Truth | Mapping[str, Any]],
    *,
    task: str = "topics",
    model: str = "demo:tiny",
    seeds: Sequence[int] = (0, 1, 2),
    examples: int = 100,
    languages: Sequence[str] = LANGUAGES,
    written: bool = False,
    draw: int = 0,
    **changes: Any,
) -> tuple[list[RunRecord], pl.DataFrame]:
    """Runs, and their predictions.

    Args:
        methods: Label to the chance of a right answer, the same in every language or by language code; or to
            changes of the run, with ``chance``, and of written answers ``english``: the chance that one is
            in English.
        task: Name.
        model: Name.
        seeds: One run of everything for each.
        examples: Of each language.
        languages: Codes.
        written: Answers are written, and have a language.
        draw: Another one gives another sample.
        changes: To every run.json.
    """
    rng = np.random.default_rng([draw, *task.encode(), *model.encode()])
    hardness = rng.normal(size=(len(languages), examples)) * 0.5 + rng.normal(size=examples) * 0.5
    runs, tables = [], []
    for label, settings in methods.items():
        chances = dict(settings) if isinstance(settings, Mapping) else {"chance": settings}
        chance, english = chances.pop("chance"), chances.pop("english", 0.0)
        name = label.partition(" ")[0]
        for seed in seeds if name != "none" else seeds[:1]:
            run = make_run(name, label, seed, languages, task=task, model=model, written=written)
            run |= changes | {
                key: {**run[key], **value}
                if isinstance(run.get(key), dict) and isinstance(value, Mapping)
                else value
                for key, value in chances.items()
            }
            run["id"] = hashlib.sha256(repr((task, model, draw, sorted(run.items()))).encode()).hexdigest()[
                :16
            ]
            runs.append(as_record(run))
            tables.append(_answers(run, chance, english, hardness, rng))
    return runs, pl.concat(tables, how="diagonal")


def write_store(folder: Path, runs: Sequence[RunRecord], rows: pl.DataFrame) -> Path:
    """A store of such runs, as a study leaves it."""
    for run in runs:
        store.save(folder, run, rows.filter(run=run.id).drop("run"))
    return folder


def make_run(
    name: str, label: str, seed: int, languages: Sequence[str], *, task: str, model: str, written: bool
) -> dict[str, Any]:
    """A run.json."""
    return {
        "study": "simulated",
        "model": model,
        "method": {"name": name, **({"rank": 4} if name == "lora" else {})},
        "label": label,
        "task": {
            "name": task,
            "version": 1,
            "kind": "generation" if written else "choice",
            "metrics": ["exact" if written else "accuracy"],
            "options": {},
            "splits": {},
        },
        "source_language": "en",
        "languages": list(languages),
        "seed": seed,
        "train": None
        if name == "none"
        else {"learning_rate": 0.01, "steps": 10, "batch_size": 8, "seed": seed},
        "trained_parameters": {"none": 0, "lora": 184_320, "full": 268_098_176}.get(name, 115_200),
        "zero_shot": True,
        "evaluate": {"limit": None, "choices": "label", "max_answer_tokens": None},
        "fingerprints": {"train": "aa", "test": {code: f"cc-{task}-{code}" for code in languages}},
        "versions": {"crosstune": "0.1.0"},
        "dtype": "bfloat16",
        "device": "cpu",
        "dev": [],
        "search": None,
        "cost": {"train_seconds": 1.0, "evaluate_seconds": 2.0},
        "curve": [],
    }


def _answers(
    run: Mapping[str, Any], chance: float | Truth, english: float, hardness: Any, rng: np.random.Generator
) -> pl.DataFrame:
    moved = rng.normal() * 0.03
    tables = []
    for place, code in enumerate(run["languages"]):
        p = chance(code) if callable(chance) else chance
        n = hardness.shape[1]
        # Right where skill is above hardness plus luck; sqrt(1.5) is their spread, so that p is met.
        skill = _normal_quantile(min(max(p, 0.001), 0.999)) * 1.5**0.5 + moved
        right = (skill > hardness[place] + rng.normal(size=n)).astype(float)
        in_english = rng.random(n) < (english if code != "en" else 1.0)
        tables.append(
            pl.DataFrame(
                {
                    "run": run["id"],
                    "language": code,
                    "example": [str(i) for i in range(n)],
                    "prompt_hash": "0" * 16,
                    "prediction": ["right" if correct else "wrong" for correct in right],
                    "gold": "right",
                    "score": right,
                    "choice_logprobs": pl.Series([None] * n, dtype=pl.List(pl.Float64)),
                    "answer_language": ["en" if switched else code for switched in in_english]
                    if run["task"]["kind"] == "generation"
                    else pl.Series([None] * n, dtype=pl.String),
                }
            )
        )
    return pl.concat(tables)


def _normal_quantile(p: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(p)

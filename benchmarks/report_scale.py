"""How long a big study takes to report, in how much memory, and how big the page is.

Simulates a store in the store's own format (run.json, predictions.parquet, checksums), then times
`crosstune report` on it as a process of its own and, where Chromium and playwright are there, how long a
browser takes until the page can be used::

    python benchmarks/report_scale.py                           # 200 runs x 100 languages x 500 examples
    python benchmarks/report_scale.py --shape methods --runs 198  # 66 methods x 3 seeds
    python benchmarks/report_scale.py --runs 40 --languages 20 --examples 50
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from crosstune.languages.table import LANGUAGES
from crosstune.store import store as stored
from crosstune.store.record import RunRecord

NAMES = ("soft-prompt", "prefix", "llama-adapter", "lora", "full")
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
HOSTILE = ("<script>alert(1)</script>", "\x1b[31mred\x07 \u202egnp.exe", "long " * 20_000)


def setups(shape: str, runs: int) -> Iterator[tuple[dict[str, Any], str, dict[str, Any] | None, int]]:
    """Method, label, training settings and seed of each run: a sweep of learning rates, or many methods."""
    seeds = 5 if shape == "sweep" else 3
    for i in range(runs):
        setup, seed = divmod(i, seeds)
        number, point = divmod(setup, len(RATES))
        rate = RATES[point] if shape == "sweep" else 1e-3
        name = NAMES[number % len(NAMES)]
        method: dict[str, Any] = {"name": name, "length": 10 + number // len(NAMES)}
        label = f"{name} {method['length']}" if number >= len(NAMES) else name
        if shape == "methods":
            method = {"name": NAMES[setup % len(NAMES)], "length": 4 + setup // len(NAMES)}
            label = f"{method['name']} l{method['length']}"
        train = {"learning_rate": rate, "steps": 200, "batch_size": 16, "seed": seed}
        yield method, label, train, seed


def simulate(
    store: Path, *, runs: int = 200, languages: int = 100, examples: int = 500, shape: str = "sweep"
) -> None:
    """Write a store of made-up runs: written answers, right or wrong, some of them in English.

    Examples differ in difficulty, the same in every language and run; methods, rates, languages and seeds
    differ in skill. A few answers are hostile.
    """
    codes = ["en", *[code for code in LANGUAGES if code != "en" and "-" not in code][: languages - 1]]
    draw = np.random.default_rng(0)
    difficulty = draw.normal(0, 1.2, examples)
    reach = np.where(np.arange(languages) == 0, 1.5, draw.normal(0.2, 0.9, languages))
    gold = np.array(
        [
            [f"{LANGUAGES[code].endonym or code} {n * 7919 % 10_007} {n}" for n in range(examples)]
            for code in codes
        ]
    )
    english = np.array([f"number {n * 7919 % 10_007} in words" for n in range(examples)])
    language = np.repeat(codes, examples)
    example = np.tile([f"{n:04}" for n in range(examples)], languages)
    prompts = [f"{value:016x}" for value in draw.integers(0, 2**63, languages * examples).tolist()]
    for method, label, train, seed in setups(shape, runs):
        generator = np.random.default_rng(
            int.from_bytes(hashlib.sha256(f"{label}{train}".encode()).digest()[:4])
        )
        assert train is not None
        skill = 0.25 * NAMES.index(method["name"]) - 0.35 * abs(np.log10(train["learning_rate"]) + 2)
        logit = skill + reach[:, None] - difficulty + generator.normal(0, 0.1, (languages, 1))
        right = generator.random((languages, examples)) < 1 / (1 + np.exp(-logit))
        instead = ~right & (generator.random((languages, examples)) < 0.4)
        other = gold[np.arange(languages)[:, None], generator.integers(0, examples, (languages, examples))]
        answer = np.where(right, gold, np.where(instead, english, other)).ravel()
        answer_languages = np.where(instead.ravel(), "en", language).tolist()
        texts = answer.tolist()
        for place, text in enumerate(HOSTILE):
            texts[-1 - place] = text
        score = right.ravel().astype(np.float64)
        score[-len(HOSTILE) :] = 0
        run = record(method, label, train, seed, codes, right.mean())
        table = pl.DataFrame(
            {
                "language": language,
                "example": example,
                "prompt_hash": prompts,
                "prediction": texts,
                "gold": gold.ravel(),
                "score": score,
                "choice_logprobs": pl.Series([None] * len(texts), dtype=pl.List(pl.Float64)),
                "answer_language": answer_languages,
                "metric.value": score,
                "metric.exact": score,
                "metric.in_english": instead.ravel().astype(np.float64),
            }
        )
        stored.save(store, run, table)


def record(
    method: dict[str, Any], label: str, train: dict[str, Any], seed: int, codes: list[str], mean: float
) -> RunRecord:
    """A run.json with all that a real one holds."""
    test = {code: hashlib.sha256(code.encode()).hexdigest()[:16] for code in codes}
    sources = [{"split": "test", "language": code, "files": [f"data/{code}/test.tsv"]} for code in codes]
    run: dict[str, Any] = {
        "kind": "result",
        "study": "simulated",
        "model": "simulated/model",
        "revision": "0" * 16,
        "method": method,
        "label": label,
        "task": {
            "name": "number-words",
            "version": 1,
            "kind": "generation",
            "metrics": ["value", "exact", "in_english"],
            "options": {"source": "auto", "prompt_language": "target"},
            "splits": {"train": "train", "dev": "dev", "test": "test"},
        },
        "source_language": "en",
        "languages": codes,
        "seed": seed,
        "train": train,
        "trained_parameters": 1000 * method["length"],
        "zero_shot": True,
        "evaluate": {"limit": None, "choices": "label", "tokens_per_pass": 8192, "max_answer_tokens": 16},
        "overlap": {"prompts": 0, "ids": 0},
        "data": {"sources": sources, "skipped_rows": 0},
        "fingerprints": {"train": {"en": "aa"}, "dev": "bb", "test": test},
        "versions": {"crosstune": "0", "torch": "0"},
        "hardware": {"cpu": "simulated", "cores": 2},
        "dtype": "float32",
        "device": "cpu",
        "cost": {"train_seconds": 45.2, "evaluate_seconds": 310.0, "test_tokens": 10**6},
        "curve": [
            {"step": s, "loss": 2.5 / (1 + s * mean / 20), "learning_rate": train["learning_rate"]}
            for s in range(1, 201)
        ],
        "started": f"2026-01-01T00:00:{seed:02}+00:00",
    }
    run["id"] = hashlib.sha256(json.dumps([method, label, train, seed]).encode()).hexdigest()[:16]
    return RunRecord.model_validate(run)


# A process starts with the memory of the one it was forked from, and its peak remembers: a small one between.
BETWEEN = """
import json, os, subprocess, sys, time
began = time.perf_counter()
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
told = [time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]
print(json.dumps(told), file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def measure(store: Path, page: Path) -> dict[str, float]:
    """Report a store in a process of its own.

    Returns:
        Wall and processor seconds, peak memory in GiB, size of the page in MB.
    """
    command = [sys.executable, "-m", "crosstune", "report", str(store), "--out", str(page)]
    done = subprocess.run(
        [sys.executable, "-c", BETWEEN, *command], stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"crosstune report failed: {done.stderr}")
    wall, cpu, peak = json.loads(done.stderr.splitlines()[-1])
    return {"seconds": wall, "cpu": cpu, "gib": peak / 2**20, "mb": page.stat().st_size / 1e6}


def open_page(page: Path) -> dict[str, float]:
    """Seconds until a browser has read the page, and until its last chart is drawn after scrolling down."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        begin = time.perf_counter()
        tab.goto(page.as_uri())
        read = time.perf_counter() - begin
        tab.locator("html[data-ready]").wait_for(state="attached")
        ready = time.perf_counter() - begin
        tab.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        begin = time.perf_counter()
        for place in range(tab.locator("figure").count()):
            figure = tab.locator("figure").nth(place)
            figure.scroll_into_view_if_needed()
            figure.locator("svg, canvas").first.wait_for(timeout=60_000)
        charts = time.perf_counter() - begin
        browser.close()
    return {"read": read, "ready": ready, "all charts": charts}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--languages", type=int, default=100)
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--shape", choices=["sweep", "methods"], default="sweep")
    parser.add_argument(
        "--store", type=Path, help="Keep the simulated store here (and take one that is there)."
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        store = arguments.store or Path(scratch) / "store"
        if not stored.finished(store):
            simulate(
                store,
                runs=arguments.runs,
                languages=arguments.languages,
                examples=arguments.examples,
                shape=arguments.shape,
            )
        page = Path(scratch) / "report.html"
        rows = arguments.runs * arguments.languages * arguments.examples
        print(
            f"{arguments.shape}: {arguments.runs} runs x {arguments.languages} languages"
            f" x {arguments.examples} examples = {rows:,} predictions"
        )
        measured = measure(store, page)
        print(
            f"report: {measured['seconds']:.1f} s ({measured['cpu']:.1f} s of processor), "
            f"peak {measured['gib']:.2f} GiB, page {measured['mb']:.2f} MB"
        )
        if shutil.which("chromium"):
            opened = open_page(page)
            print("browser: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in opened.items()))


if __name__ == "__main__":
    main()

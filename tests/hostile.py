"""32 texts that would act where text is only shown, and a store whose every free text is one of them."""

import hashlib
from pathlib import Path
from typing import Any

import polars as pl

from records import as_record
from simulated import write_store

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<!--<script>alert(1)//",
    "<img src=x onerror=alert(1)>",
    "\"><svg onload=alert(1)>",
    "' onmouseover='alert(1)' x='",
    "<svg><foreignObject><body onload=alert(1)>",
    "<iframe srcdoc='<script>parent.alert(1)</script>'>",
    "<a href=\"javascript:alert(1)\">x</a>",
    "</style><style>*{display:none}",
    "x;background:url(http://evil.example/x)",
    "&lt;img src=x onerror=alert(1)&gt; &#x1b;",
    "{{ 7*7 }}{% raw %}",
    "${7*7} `alert(1)`",
    '"},{"x":"\\u003cscript\\u003e',
    "\\\"];alert(1);//",
    "\x1b]8;;http://evil.example\x07link\x1b]8;;\x07",
    "\x1b[2J\x1b[31mred",
    "\x9b31m\x9d0;t\x9c",
    "a\x00b\x07\x08\x7f",
    "\u202egnp.exe\u2066x\u2069\u061c\u200f",
    "zero\u200bwidth\ufeff\u2060\U000e0041",
    "line\u2028para\u2029next\x85v\x0bf\x0c",
    "crlf\r\nX: y\rz",
    '=HYPERLINK("http://evil.example","x")',
    "+cmd|' /C calc'!A0",
    "-2+3+cmd|x",
    "@SUM(1+1)",
    "\t=1+1",
    "\\input{/etc/passwd}\\immediate\\write18{touch x}",
    "$x$ % # _ ^ ~ & {\\def}[*]",
    "[bold red]markup[/] " + "long " * 20_000,
]  # fmt: skip
ACTS = {chr(i) for i in (*range(32), *range(127, 160), 0x61C, 0x200B, 0x200E, 0x200F, *range(0x2028, 0x202F),
                         *range(0x2060, 0x2070), 0xFEFF, 0xD800, *range(0xE0000, 0xE0080))}  # fmt: skip
"""Characters that act on a terminal, end a line, or reorder or hide what follows."""


def active(text: str, allowed: str = "\n") -> set[str]:
    """The characters of a text that act, but for those its own lines are made of."""
    return (set(text) & ACTS) - set(allowed)


def hostile(number: int) -> str:
    return HOSTILE[number % len(HOSTILE)]


def hostile_runs() -> list[dict[str, Any]]:
    """16 models with two methods each; every field that can be another in each run sees all of `HOSTILE`.

    What the two runs of a model share holds two texts each, so that these see all of them too.
    """
    runs = []
    for number in range(32):
        pair = number // 2

        def mark(place: int, number: int = number) -> str:
            return hostile(number + place)

        def both(place: int, pair: int = pair) -> str:
            return hostile(pair + place)[:60] + hostile(pair + place + 16)[:60]

        codes = ["de", both(3), both(7)]
        run = {
            "study": mark(0), "model": both(16), "revision": mark(1), "label": mark(2), "dtype": mark(3),
            "device": mark(4), "method": {"name": mark(5), mark(6): mark(7), "list": [mark(8)]},
            "task": {
                "name": both(0), "version": 1, "kind": "generation",
                "metrics": [both(1), both(2)],
                "options": {both(4): both(5)},
                "splits": {mark(9): mark(10)}, "file": {"path": mark(11), "sha256": mark(12)},
            },
            "source_language": codes[1], "languages": codes, "seed": number % 2,
            "train": {mark(13): mark(14), "learning_rate": mark(15), "steps": mark(16), "seed": number % 2},
            "trained_parameters": number, "zero_shot": number % 3 > 0, "evaluate": {mark(17): mark(18)},
            "fingerprints": {"train": mark(19), "test": dict.fromkeys(codes, f"{pair}")},
            "overlap": {"prompts": 1, "normalised": {mark(20): 2}}, "versions": {mark(21): mark(22)},
            "hardware": {mark(23): mark(24)}, "git": {mark(25): mark(26)}, "quantize": mark(27),
            "device_map": mark(28), "started": mark(29), "finished": mark(30),
            "cost": {"train_seconds": 1.0, "evaluate_seconds": 2.0, "energy_of": [mark(31)]},
            "curve": [{"step": step, "loss": 1.0 / step} for step in (1, 2)],
        }  # fmt: skip
        run["id"] = hashlib.sha256(f"{number}".encode()).hexdigest()[:16]
        runs.append(run)
    return runs


def hostile_rows(runs: list[dict[str, Any]]) -> pl.DataFrame:
    """Two answers in each language of each run."""
    rows = [
        {
            "run": run["id"], "language": code, "example": f"{place}{hostile(place + number)}",
            "prompt_hash": hostile(number + 1), "prediction": hostile(number + place + 2),
            "gold": hostile(number + 3), "score": float((number + place) % 2), "choice_logprobs": None,
            f"metric.{run['task']['metrics'][1]}": 0.5,
            "answer_language": (code, hostile(number))[place],
        }
        for number, run in enumerate(runs) for code in run["languages"] for place in (0, 1)
    ]  # fmt: skip
    return pl.DataFrame(
        rows, infer_schema_length=None, schema_overrides={"choice_logprobs": pl.List(pl.Float64)}
    )


def hostile_store(folder: Path) -> Path:
    """A store of these runs, each with the columns of its own metrics."""
    runs = hostile_runs()
    rows = hostile_rows(runs)
    for run in runs:
        metric = f"metric.{run['task']['metrics'][1]}"
        others = [name for name in rows.columns if name.startswith("metric.") and name != metric]
        write_store(folder, [as_record(run)], rows.filter(run=run["id"]).drop(others))
    return folder


def hostile_claims() -> dict[str, Any]:
    """A claim for each text: its words, source, model, task and methods."""
    texts = [text[:500] for text in HOSTILE]
    return {
        "claims": [
            {
                "claim": text, "source": texts[number - 1], "model": texts[number % 16],
                "task": texts[number % 16 + 16], "method": texts[number - 2],
                "beats": {"name": texts[number - 3], texts[number - 4]: texts[number - 5]},
            }
            for number, text in enumerate(texts)
        ]
    }  # fmt: skip

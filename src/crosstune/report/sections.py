"""A report's sections: one for each set of runs that may be compared, with its finding in a sentence."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from babel import Locale

from crosstune.analysis.answer_language import CORRECT
from crosstune.analysis.groups import Grouping, language_or_none
from crosstune.analysis.predictions import Predictions
from crosstune.analysis.transfer import COMPARISON, SCORING, Run, language_scores, seed_means, transfer
from crosstune.report.text import percent

IN_ENGLISH = "metric.in_english"


@dataclass(frozen=True)
class Section:
    """The runs of one model on one task under one protocol.

    Attributes:
        note: What sets the section apart where a model and task have several protocols, else "".
        runs: Its runs (``run.json``), by method and seed.
        scores: Its rows of `crosstune.analysis.transfer.language_scores`.
        table: Its rows of `crosstune.analysis.transfer.transfer`, best mean over targets first.
    """

    model: str
    task: str
    protocol: str
    note: str
    runs: list[Run]
    scores: pl.DataFrame
    table: pl.DataFrame

    @property
    def methods(self) -> list[str]:
        """Method labels, best mean over targets first."""
        return self.table["method"].to_list()

    @property
    def languages(self) -> pl.DataFrame:
        """Seed-averaged scores, one row per method and language (all languages, not only common ones)."""
        return seed_means(self.scores)

    @property
    def source(self) -> str:
        """Name of the source language."""
        return language_name(self.table["source_language"][0])

    @property
    def overlap(self) -> int:
        """Test examples whose prompt is also in the training data, in the run where they are most."""
        return max(int((run.get("overlap") or {}).get("prompts") or 0) for run in self.runs)

    @property
    def shared_texts(self) -> dict[str, int]:
        """Test examples that share a text with the training data (normalised), by field, where any do."""
        most: Counter[str] = Counter()
        for run in self.runs:
            most |= Counter((run.get("overlap") or {}).get("normalised") or {})
        return {name: count for name, count in most.items() if count}

    @property
    def skipped_rows(self) -> int:
        """Rows of the data that could not be used and were left out."""
        return max(int((run.get("data") or {}).get("skipped_rows") or 0) for run in self.runs)

    @property
    def has_in_english(self) -> bool:
        """Whether right answers given in English instead were counted (``metric.in_english``)."""
        return self._has(IN_ENGLISH)

    @property
    def has_answer_language(self) -> bool:
        """Whether the language of some answers could be told."""
        return self._has(CORRECT)

    def _has(self, metric: str) -> bool:
        return metric in self.scores.columns and self.scores[metric].is_not_null().any()


def sections(runs: Sequence[Run], predictions: pl.DataFrame | Predictions) -> list[Section]:
    """Split runs into sets that may be compared.

    Raises:
        UserError: As `crosstune.analysis.transfer.language_scores`.
    """
    scores = language_scores(runs, predictions)
    table = transfer(scores)
    by_id = {run["id"]: run for run in runs}
    keys = scores.select(COMPARISON).unique().sort(COMPARISON).rows()
    together = Counter((model, task) for model, task, _ in keys)
    found = []
    for model, task, protocol in keys:
        here = (pl.col("model") == model) & (pl.col("task") == task) & (pl.col("protocol") == protocol)
        own = scores.filter(here)
        order = own.select("method", "seed", "run").unique().sort("method", "seed", "run")
        members = [by_id[run_id] for run_id in order["run"]]
        note = _protocol_note(members[0]) if together[model, task] > 1 else ""
        found.append(Section(model, task, protocol, note, members, own, table.filter(here)))
    return found


def language_name(code: str) -> str:
    """The language's English name, or its code where the language table lacks it."""
    language = language_or_none(code)
    return code if language is None else language.name


def group_name(by: Grouping, group: str) -> str:
    """How a group of `crosstune.analysis.groups.group_means` is written: scripts by name instead of code."""
    names: Mapping[str, str] = Locale("en").scripts
    return (
        {"Hans": "Simplified Han", "Hant": "Traditional Han"}.get(group, names.get(group, group))
        if by == "script"
        else group
    )


def finding(section: Section) -> str:
    """What the section's numbers say, in one sentence, and in a second how much that rests on."""
    rows = _ranked(section)
    if not rows:
        return "No zero-shot run shares a target language with all others: there is no transfer to report."
    best = rows[0]
    targets = f"{best['targets']} target {'language' if best['targets'] == 1 else 'languages'}"
    score = f"mean of {targets} {percent(best['target_mean'])}"
    if best["source"] is not None:
        side = "under" if best["gap"] >= 0 else "over"
        score += f", {percent(abs(best['gap']))} points {side} {section.source} ({percent(best['source'])})"
    if len(rows) == 1:
        alone = "there is no other method to compare it with"
        return f"{best['method']}: {score}; {alone}. {_weight(section, rows)}"
    second, leader = rows[1], _leader(rows)
    if leader is None:
        said = f"{best['method']} and {second['method']} are level at the top: {score}"
    else:
        said = f"{leader} carries furthest: {score}; next is {second['method']} with "
        said += percent(second["target_mean"])
    return f"{said}. {_weight(section, rows)}"


def overall_finding(parts: Sequence[Section]) -> str:
    """The finding where there is one section, else who leads how many of them."""
    if len(parts) == 1:
        return finding(parts[0])
    compared = [rows for part in parts if len(rows := _ranked(part)) > 1]
    if not compared:
        return f"{len(parts)} sets of runs, none of them with two zero-shot methods to compare."
    leads = Counter(_leader(rows) or "level at the top" for rows in compared)
    ranked = sorted(leads.items(), key=lambda item: (-item[1], item[0]))
    if len(ranked) == 1:
        said = f"{ranked[0][0]} has the highest mean over target languages in all {len(compared)} comparisons"
    else:
        counts = ", ".join(f"{name} in {count}" for name, count in ranked)
        said = f"Highest mean over target languages in {len(compared)} comparisons: {counts}"
    return f"{said}. How many seeds and examples each rests on is said below; none of these leads is tested."


def _ranked(section: Section) -> list[dict[str, Any]]:
    rows = section.table.filter("zero_shot", pl.col("target_mean").is_not_null())
    return rows.rows(named=True)


def _leader(rows: list[dict[str, Any]]) -> str | None:
    """The first method's label, or None when what is shown of the second's mean is the same."""
    level = percent(rows[0]["target_mean"]) == percent(rows[1]["target_mean"])
    return None if level else str(rows[0]["method"])


def _weight(section: Section, rows: list[dict[str, Any]]) -> str:
    seeds, sizes = [row["seeds"] for row in rows], section.scores["n"].to_list()
    times = "One seed" if max(seeds) == 1 else f"{_range(seeds)} seeds"
    return (
        f"{times} a method, {_range(sizes)} examples a language, {len(rows)} methods compared on the scores "
        "shown; no significance test behind this sentence."
    )


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _protocol_note(run: Run) -> str:
    task = run["task"]
    options = ", ".join(f"{key} {value}" for key, value in (task.get("options") or {}).items())
    tests = run["fingerprints"].get("test") or {}
    data = tests.get(run["source_language"]) or next(iter(tests.values()), "unknown")
    scoring = ", ".join(f"{key} {(run.get('evaluate') or {}).get(key, '-')}" for key in SCORING)
    parts = (f"version {task['version']}", options, scoring, f"test data {data[:6]}")
    return ", ".join(part for part in parts if part)

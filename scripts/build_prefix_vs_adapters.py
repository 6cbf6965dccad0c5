"""Write the tables, figures and verdicts of docs/prefix-vs-adapters.md from the results of its studies.

    python scripts/build_prefix_vs_adapters.py runs/prefix-vs-adapters

Tables go between the page's markers, `<!-- table: NAME -->` and `<!-- end: NAME -->`; the text around them is
written by hand.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import polars as pl

import crosstune
from crosstune.analysis.statistics.differences import AllPairs, Difference
from crosstune.claims.evidence import Evidence
from crosstune.claims.file import read_claims
from crosstune.claims.judge import judge
from crosstune.languages import LANGUAGES

PAGE = Path(__file__).parents[1] / "docs" / "prefix-vs-adapters.md"
FOLDER = PAGE.with_suffix("")
# By its label in the store, without a rate, the method's name on the page.
PREFIXES = {
    "soft-prompt length 20": "soft prompt",
    "prefix length 33 kv": "prefix, KV",
    "prefix length 27": "prefix, hidden",
    "llama-adapter length 27": "LLaMA-Adapter",
}
ADAPTERS = {
    "bottleneck width 13": "bottleneck, inside",
    "bottleneck pfeiffer width 13": "bottleneck, Pfeiffer",
    "bottleneck parallel width 13": "bottleneck, parallel",
    "ia3": "(IA)³",
    "peft DORA r 4": "DoRA, r 4",
    "lora": "LoRA, r 4",
}
TRAINED = {**PREFIXES, **ADAPTERS, "full": "full fine-tuning"}
METHODS = {**TRAINED, "few-shot": "few-shot", "none": "none"}
SIZES = tuple(f"{name} {size}" for size in ("1.23M", "4.92M") for name in ("bottleneck", "lora"))
SIZES += ("prefix 1.23M kv", "prefix 4.92M kv")
FIGURES = (
    "number-words-in-english",
    "number-words-answer-languages",
    "number-words-in-source-language-by-family",
)
FIGURES += tuple(f"{task}-{kind}" for task in ("xquad", "sib200") for kind in ("heatmap", "differences"))
FIGURES += ("xquad-answer-languages", "sib200-family", "sib200-macroarea")


def signed(value: float) -> str:
    """Percentage points with a sign."""
    return f"{100 * value:+.1f}".replace("-", "−")


def interval(tested: Difference) -> str:
    """A difference and its interval, in points; one that is not tested has no interval."""
    if tested.low is None or tested.high is None:
        return f"{signed(tested.difference)}, not tested"
    return f"{signed(tested.difference)} ({signed(tested.low)} to {signed(tested.high)})"


def over_seeds(values: Sequence[float], digits: int = 1) -> str:
    """Mean and standard deviation over seeds, in points."""
    series = 100 * pl.Series(values, dtype=pl.Float64).drop_nulls()
    if not len(series):
        return "-"
    spread = f" ±{series.std():.{digits}f}" if len(series) > 1 else ""
    return f"{series.mean():.{digits}f}{spread}"


def rate_text(rate: float) -> str:
    """3e-2, and 1 for 1."""
    mantissa, exponent = f"{rate:.0e}".split("e")
    return mantissa if int(exponent) == 0 else f"{mantissa}e{int(exponent)}"


def table(head: Sequence[str], rows: Iterable[Iterable[str]], text: Sequence[int] = (0,)) -> str:
    """A Markdown table; the columns ``text`` are aligned to the left, the others to the right."""
    rule = ["---" if column in text else "--:" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows))


class Task:
    """The results of one task.

    Args:
        name: As in the store.
        results: Of all tasks.
    """

    def __init__(self, name: str, results: crosstune.Results) -> None:
        self.name = name
        runs = [run for run in results.runs if run.task.name == name]
        self.scores = results.scores.filter(pl.col("task") == name)
        label = dict(self.scores.select("run", "method").unique().iter_rows())
        self.rates = {label[run.id]: run.train["learning_rate"] for run in runs if run.train}
        searched = {label[run.id] for run in runs if run.search}
        self.fixed = {name for name in self.rates if name not in searched}
        # A label that says its rate is that of the method with its searched rate, unless the rate was fixed.
        by_label = {
            name if name in self.fixed else name.split(", learning rate")[0]: name for name in label.values()
        }
        self.main = {name: by_label[name] for name in METHODS if name in by_label}
        self.sizes = {name: by_label[name] for name in SIZES if name in by_label}
        self.trained = dict(self.scores.select("method", "trained_parameters").unique().iter_rows())
        self.evidence = Evidence(
            runs, results.predictions.filter(pl.col("run").is_in([run.id for run in runs])), self.scores
        )
        self.targets = sorted(set(self.scores["language"]) - {"en"})
        self.searches = [run for run in results.searches if run.task.name == name and run.kind == "search"]

    def seeds(self, method: str, column: str, languages: Iterable[str] | None = None) -> list[float]:
        """The mean over languages (all but English by default) of each seed."""
        rows = self.scores.filter(
            pl.col("method") == method, pl.col("language").is_in(list(languages or self.targets))
        )
        return rows.group_by("seed", maintain_order=True).agg(pl.col(column).mean())[column].to_list()

    def mean(self, method: str, column: str, languages: Iterable[str] | None = None) -> float:
        """The mean over languages and seeds."""
        values = self.seeds(method, column, languages)
        return sum(values) / len(values)

    def english_answers(self, method: str) -> list[float]:
        """Share of all answers whose language was identified as English, of each seed."""
        identified = 1 - pl.col("metric.undecidable_language")
        share = (pl.col("metric.in_source_language").fill_null(0) * identified).mean()
        rows = self.scores.filter(pl.col("method") == method, pl.col("language") != "en")
        return rows.group_by("seed", maintain_order=True).agg(share.alias("share"))["share"].to_list()

    def rate(self, method: str) -> str:
        """The learning rate of a method's tested runs."""
        return rate_text(self.rates[method]) if method in self.rates else "-"

    def pairs(
        self,
        metric: str = "score",
        methods: Iterable[str] | None = None,
        languages: Iterable[str] | None = None,
    ) -> AllPairs:
        """All pairs of methods (those of the main table by default) by one metric."""
        wanted = set(self.main.values() if methods is None else methods)
        setups = {setup.label: setup for setup in self.evidence.setups if setup.label in wanted}
        return AllPairs(self.evidence.paired(setups, metric), None if languages is None else list(languages))

    def families(self, least: int = 1) -> dict[str, list[str]]:
        """Families with at least some languages, the largest first."""
        groups: dict[str, list[str]] = {}
        for code in self.targets:
            groups.setdefault(LANGUAGES[code].family, []).append(code)
        return {
            name: codes
            for name, codes in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
            if len(codes) >= least
        }

    @cached_property
    def dev(self) -> dict[str, dict[float, float]]:
        """Score on English development data of every searched rate, by label."""
        found: dict[str, dict[float, float]] = {}
        for run in self.searches:
            found.setdefault(run.label, {})[run.train["learning_rate"]] = max(
                point["score"] for point in run.dev
            )
        return found


def written(task: Task, methods: Iterable[tuple[Sequence[str], str]], head: Sequence[str]) -> str:
    """Numbers in words: what is right, and in which language. A row is its first cells and its method."""
    rows = [
        (
            *first,
            task.rate(method),
            over_seeds(task.seeds(method, "score", ["en"]), 0),
            over_seeds(task.seeds(method, "score")),
            over_seeds(task.seeds(method, "metric.in_english"), 0),
            over_seeds(task.english_answers(method), 0),
            over_seeds(task.seeds(method, "metric.undecidable_language"), 0),
        )
        for first, method in methods
    ]
    columns = ("rate", "English", "right", "right, but in English", "in English", "not identified")
    return table((*head, *columns), rows)


def by_group(task: Task, groups: dict[str, list[str]], column: str) -> str:
    """The mean over each group of languages, methods in the order of their means."""
    means = {
        name: [100 * task.mean(method, column, codes) for codes in groups.values()]
        for name, method in task.main.items()
    }
    order = sorted(means, key=lambda name: -task.mean(task.main[name], column))
    return table(
        ("", *(f"{name} ({len(codes)})" for name, codes in groups.items())),
        ((METHODS[name], *(f"{mean:.0f}" for mean in means[name])) for name in order),
    )


def scored(task: Task, groups: dict[str, list[str]], language: bool) -> str:
    """Scores in English and in groups of languages, and the gain over no tuning."""
    pairs = task.pairs()
    rows = []
    for name in sorted(task.main, key=lambda name: -task.mean(task.main[name], "score")):
        method = task.main[name]
        row = [METHODS[name], task.rate(method), over_seeds(task.seeds(method, "score", ["en"]))]
        row += [over_seeds(task.seeds(method, "score", codes)) for codes in groups.values()]
        if language:
            row += [
                over_seeds(task.english_answers(method), 0),
                over_seeds(task.seeds(method, "metric.undecidable_language"), 0),
            ]
        rows.append([*row, "" if name == "none" else interval(pairs.pair(method, task.main["none"]))])
    head = ["", "rate", "English", *groups, *(["in English", "not identified"] if language else [])]
    return table([*head, "gain over no tuning, 95% interval"], rows)


def against(numbers: Task, xquad: Task, sib: Task, africa: list[str]) -> str:
    """Each prefix minus each adapter, with intervals adjusted for all pairs of trained methods."""
    trained = [
        [method for name, method in task.main.items() if name in TRAINED] for task in (numbers, xquad, sib)
    ]
    columns = {
        "numbers: answers in English": (numbers, numbers.pairs("source_language", trained[0])),
        "XQuAD, F1": (xquad, xquad.pairs("score", trained[1])),
        "SIB-200, accuracy": (sib, sib.pairs("score", trained[2])),
        f"SIB-200, Africa ({len(africa)})": (sib, sib.pairs("score", trained[2], africa)),
    }
    rows = []
    for one in PREFIXES:
        for other in ADAPTERS:
            cells = [
                interval(pairs.pair(task.main[one], task.main[other]))
                if {one, other} <= task.main.keys()
                else "-"
                for task, pairs in columns.values()
            ]
            rows.append((f"{METHODS[one]} − {METHODS[other]}", *cells))
    return table(("", *columns), rows)


def searched(tasks: Sequence[Task]) -> str:
    """Development scores of all rates, the best one in bold."""

    def cell(task: Task, label: str) -> str:
        scores = task.dev.get(label)
        if not scores:
            return "-"
        best = min(scores, key=lambda rate: (-scores[rate], rate))
        texts = {rate: f"{rate_text(rate)}: {100 * scores[rate]:.0f}" for rate in sorted(scores)}
        return ", ".join(f"**{text}**" if rate == best else text for rate, text in texts.items())

    labels = [label for label in METHODS if any(label in task.dev for task in tasks)]
    head = ("", *(TITLES[task.name] for task in tasks))
    rows = ((METHODS[label], *(cell(task, label) for task in tasks)) for label in labels)
    return table(head, rows, text=range(len(head)))


def verdicts(results: crosstune.Results) -> str:
    """The verdicts on the claims of the page's folder, which come in pairs: a claim and its reverse."""
    judged = judge(read_claims(FOLDER / "claims.yaml"), results.runs, results.source, results.scores)
    rows = []
    for verdict, reverse in zip(judged[::2], judged[1::2], strict=True):
        cell = verdict.cell
        if cell.difference is None or cell.low is None or cell.high is None:
            shown = "-"
        else:
            shown = f"{signed(cell.difference)} ({signed(cell.low)} to {signed(cell.high)})"
            shown += f", {cell.where}" if cell.where else ""
        detectable = "-" if cell.detectable is None else f"{100 * cell.detectable:.0f}"
        rows.append((verdict.claim, shown, detectable, verdict.verdict, reverse.verdict))
    head = ("claim", "difference, 95% interval", "detectable", "verdict", "verdict on its reverse")
    return table(head, rows, text=(0, 3, 4))


def cost(results: crosstune.Results) -> str:
    """How many runs, and how long they took."""
    runs = [*results.runs, *results.searches]
    train = sum(run.cost.train_seconds or 0 for run in runs) / 60
    evaluate = sum(run.cost.evaluate_seconds or 0 for run in runs) / 60
    return (
        f"{len(results.runs)} tested runs and {len(results.searches)} of the search: {train:.0f} minutes of "
        f"training and {evaluate:.0f} of evaluation."
    )


TITLES = {"number-words": "numbers, exact match", "xquad": "XQuAD, F1", "sib200": "SIB-200, accuracy"}


def files(results: crosstune.Results) -> None:
    """Figures, tables of all values, and every answer of the tested runs."""
    with tempfile.TemporaryDirectory() as folder:
        results.export(folder, ["svg", "csv"])
        for kind in ("figures", "tables"):
            shutil.rmtree(FOLDER / kind, ignore_errors=True)
            (FOLDER / kind).mkdir(parents=True)
        for path in Path(folder).rglob("*.*"):
            name = path.name.replace("-demo-gemma-3-270m", "")
            kept = path.stem.replace("-demo-gemma-3-270m", "") in FIGURES
            if path.suffix == ".svg" and kept:
                shutil.copy(path, FOLDER / "figures" / name)
            elif path.suffix == ".csv" and not any(
                part in name for part in ("branch", "script", "seen", "resource", "verdicts", "expected")
            ):
                shutil.copy(path, FOLDER / "tables" / name)
    runs = pl.DataFrame(
        [
            (run.id, run.task.name, run.train["learning_rate"] if run.train else None, run.seed)
            for run in results.runs
        ],
        schema={"run": pl.String, "task": pl.String, "learning_rate": pl.Float64, "seed": pl.Int64},
        orient="row",
    )
    labels = results.scores.select("run", "method").unique()
    kept = ("run", "language", "id", "example", "prediction", "score", "metric.in_english", "answer_language")
    answers = results.predictions.select(name for name in kept if name in results.predictions.columns)
    every = (
        answers.join(runs, on="run")
        .join(labels, on="run")
        .drop("run")
        .sort("task", "method", "seed", "language", "example")
    )
    every.write_parquet(FOLDER / "tables" / "predictions.parquet", compression="zstd", compression_level=19)


def main(store: str) -> None:
    """Write the page's tables, figures and files."""
    results = crosstune.results(store)
    numbers, xquad, sib = tasks = [Task(name, results) for name in TITLES]
    language_groups = {LANGUAGES[code].name: [code] for code in xquad.targets}
    africa = [code for code in sib.targets if LANGUAGES[code].macroarea == "Africa"]
    others = [code for code in sib.targets if code not in africa]
    order = sorted(numbers.main, key=lambda name: -numbers.mean(numbers.main[name], "metric.in_english"))
    rates = []
    for name in ("lora", "bottleneck width 13", "prefix length 27"):
        for method in sorted(
            {numbers.main[name], *(m for m in numbers.fixed if m.startswith(name))},
            key=numbers.rates.__getitem__,
        ):
            chosen = " (chosen)" if method == numbers.main[name] else ""
            rates.append(
                ((METHODS[name] + chosen, f"{100 * numbers.dev[name][numbers.rates[method]]:.0f}"), method)
            )
    sizes = []
    for small, large in (
        ("prefix length 33 kv", "prefix "),
        ("bottleneck width 13", "bottleneck "),
        ("lora", "lora "),
    ):
        for method in (
            numbers.main[small],
            *(m for name, m in numbers.sizes.items() if name.startswith(large)),
        ):
            sizes.append(((METHODS[small].removesuffix(", r 4"), f"{numbers.trained[method]:,}"), method))
    tables = {
        "number-words": written(
            numbers,
            (
                ((METHODS[name], f"{numbers.trained[numbers.main[name]]:,}"), numbers.main[name])
                for name in order
            ),
            ("", "trained"),
        ),
        "families": by_group(numbers, numbers.families(), "metric.in_english"),
        "rates": written(numbers, rates, ("", "dev")),
        "sizes": written(numbers, sizes, ("", "trained")),
        "xquad": scored(xquad, {f"mean of {len(xquad.targets)}": xquad.targets}, True),
        "xquad-languages": by_group(xquad, language_groups, "score").replace(" (1)", ""),
        "sib200": scored(
            sib,
            {
                f"mean of {len(sib.targets)}": sib.targets,
                f"Africa ({len(africa)})": africa,
                f"others ({len(others)})": others,
            },
            False,
        ),
        "sib200-families": by_group(sib, sib.families(2), "score"),
        "against": against(numbers, xquad, sib, africa),
        "searched": searched(tasks),
        "verdicts": verdicts(results),
        "cost": cost(results),
    }
    files(results)
    text = PAGE.read_text(encoding="utf-8")
    for name, content in tables.items():
        before, rest = text.split(f"<!-- table: {name} -->\n")
        after = rest.split(f"<!-- end: {name} -->", 1)[1]
        text = f"{before}<!-- table: {name} -->\n{content}\n<!-- end: {name} -->{after}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])

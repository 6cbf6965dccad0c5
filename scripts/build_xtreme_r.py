"""Write the tables of docs/xtreme-r.md from the results of studies/xtreme_r.

    python scripts/build_xtreme_r.py runs/xtreme-r

Tables go between the page's markers, `<!-- table: NAME -->` and `<!-- end: NAME -->`, and as CSV into the
folder beside it; the text around them is written by hand.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl

import crosstune

PAGE = Path(__file__).parents[1] / "docs" / "xtreme-r.md"
FOLDER = PAGE.with_suffix("") / "tables"
METHODS = {
    "none": "none",
    "probe": "head alone",
    "full": "full, embedding frozen",
    "prefix": "prefix in all layers",
    "lora": "LoRA",
    "bottleneck": "bottleneck",
    "mad-x": "MAD-X",
}
PUD = ("ar", "de", "fi", "hi", "id", "ru", "th", "zh")
MASAKHA = ("bm", "ee", "rw", "lg", "ny", "sn", "tw")
GROUPS = {
    "pos": {"English": ("en",), "8 of PUD": PUD, "7 of MasakhaPOS": MASAKHA},
    "panx": {"English": ("en",), "8 languages": None},
    "tatoeba": {"mean": None},
    "lareqa": {"English": ("en",), "10 others": None},
}


def points(values: Sequence[float]) -> str:
    """Mean of seeds, and the standard deviation where there are several, in points."""
    series = 100 * pl.Series(values, dtype=pl.Float64)
    spread = f" ±{series.std():.1f}" if len(series) > 1 else ""
    return f"{series.mean():.1f}{spread}"


def markdown(table: pl.DataFrame) -> str:
    """A Markdown table whose first column is text and whose others are numbers."""
    lines = [table.columns, ["---", *["--:"] * (table.width - 1)], *table.iter_rows()]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def means(rows: pl.DataFrame, codes: Sequence[str], column: str = "score") -> str:
    """The mean over languages, of each seed."""
    rows = rows.filter(pl.col("language").is_in(codes))
    return points(rows.group_by("seed", maintain_order=True).agg(pl.col(column).mean())[column].to_list())


def tables(results: crosstune.Results) -> dict[str, pl.DataFrame]:
    """By name: of each task and model its groups of languages, and every language."""
    order = pl.col("method_name").cast(pl.Enum(list(METHODS)))
    scores = results.scores.sort(order, "seed", maintain_order=True)
    tables = {}
    for (model, task), part in scores.group_by("model", "task", maintain_order=True):
        name = str(task) if model == "demo:e5-small" else f"{task}-gemma"
        codes = sorted(part["language"].unique(), key=lambda code: (code != "en", code))
        targets = [code for code in codes if code != "en"]
        groups, languages = [], []
        for (method,), rows in part.group_by("method_name", maintain_order=True):
            cells = {"method": METHODS[str(method)], "seeds": str(rows["seed"].n_unique())}
            cells["trained"] = f"{rows['trained_parameters'][0]:,}"
            for label, members in GROUPS[str(task)].items():
                if set(members or targets) <= set(codes):
                    cells[label] = means(rows, members or targets)
            if task == "lareqa":
                cells["own language in front"] = means(rows, targets, "metric.same_language")
            groups.append(cells)
            languages.append({"method": METHODS[str(method)]} | {code: means(rows, [code]) for code in codes})
        tables[name] = pl.DataFrame(groups)
        tables[f"{name}-languages"] = pl.DataFrame(languages)
    return tables


def main(store: str) -> None:
    """Write the tables of a store into the page and its folder."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    page = PAGE.read_text(encoding="utf-8")
    for name, table in tables(crosstune.results(store)).items():
        table.write_csv(FOLDER / f"{name}.csv")
        start, end = f"<!-- table: {name} -->", f"<!-- end: {name} -->"
        if start in page:
            before, rest = page.split(start)
            page = f"{before}{start}\n{markdown(table)}\n{end}{rest.split(end)[1]}"
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])

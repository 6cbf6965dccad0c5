"""The table of the verdicts on claims, for files: CSV and LaTeX."""

from collections.abc import Sequence

import polars as pl

from crosstune.claims.judge import Verdict, verdict_table
from crosstune.report.tables.tables import Column, Table
from crosstune.report.tables.verdicts import interval, why
from crosstune.report.text import points, visible


def claims_table(verdicts: Sequence[Verdict]) -> Table:
    """The verdict on every claim."""
    cells = [verdict.cell for verdict in verdicts]

    def known(texts: Sequence[str]) -> list[str]:
        return ["–" if cell.difference is None else text for cell, text in zip(cells, texts, strict=True)]

    columns = [
        Column("Verdict", [verdict.verdict for verdict in verdicts], right=False),
        Column("Claim", [visible(verdict.claim, 300) for verdict in verdicts], right=False, wide=True),
        Column("Difference", [points(cell.difference) for cell in cells]),
        Column("95% interval", [interval(cell).rpartition("\n")[2] for cell in cells]),
        Column("Languages", known([str(cell.languages) for cell in cells])),
        Column("Examples", known([f"{cell.examples:,}" for cell in cells])),
        Column("Seeds", known([f"{cell.seeds_a}, {cell.seeds_b}" for cell in cells])),
        Column("Effort", [visible(cell.effort, 300) or "–" for cell in cells], right=False, wide=True),
        Column("Why", [visible(why(verdict), 300) for verdict in verdicts], right=False, wide=True),
    ]
    data = verdict_table(verdicts).with_columns(pl.col("runs").list.join(" "))
    caption = "Verdicts on claims; differences in points out of 100, of the comparison that decides"
    return Table(caption, columns, data)

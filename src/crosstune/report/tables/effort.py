"""The table of what more learning rates are worth."""

from crosstune.report.sections import Section
from crosstune.report.tables.tables import Column, Table, titled
from crosstune.report.text import percent, visible


def expected_validation(section: Section) -> Table:
    """Development score to expect of the best of n rates tried (Dodge et al. 2019)."""
    data = section.expected_validation
    rows = data.rows(named=True)
    columns = [
        Column("Method", [visible(row["method"], 60) for row in rows], right=False),
        Column("Rates tried", [str(row["tried"]) for row in rows]),
        Column("Expected development score", [percent(row["expected"]) for row in rows]),
    ]
    caption = (
        f"Development score to expect of the best of n learning rates, {titled(section)}, out of 100 "
        "(Dodge et al. 2019)"
    )
    return Table(caption, columns, data, ["in the source language, which is all that chooses a rate"])

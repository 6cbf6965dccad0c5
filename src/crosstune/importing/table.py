"""A table with one row an answer: CSV, tab-separated, JSON lines or parquet."""

from collections.abc import Iterator
from pathlib import Path

from crosstune.data.tables import Row, read_rows, usable
from crosstune.importing.answers import Answer, name_of, score_of, text_of
from crosstune.languages.table import canonical

COLUMNS = ("language", "example", "method", "score")
OPTIONAL = ("model", "task", "seed", "prediction", "gold", "cluster")


def read_table(path: Path, model: str, task: str) -> Iterator[Answer]:
    """Answers of a table with `COLUMNS`, and any of `OPTIONAL`.

    Args:
        path: The file.
        model: Where the table has no column model.
        task: Where it has no column task.

    Raises:
        UserError: Not such a table, or a row that cannot be used; file and line are named.
    """
    for row in usable(read_rows(path, COLUMNS)):
        yield Answer(
            run=(
                name_of(row, "model") if "model" in row.fields else model,
                name_of(row, "task") if "task" in row.fields else task,
                name_of(row, "method"),
                _seed(row),
            ),
            language=canonical(name_of(row, "language")),
            example=name_of(row, "example"),
            score=score_of(row, "score"),
            prediction=text_of(row.fields.get("prediction") or ""),
            gold=(gold := text_of(row.fields.get("gold") or "")),
            document=gold,
            cluster=name_of(row, "cluster") if row.fields.get("cluster") is not None else None,
        )


def _seed(row: Row) -> int:
    value = row.fields.get("seed", 0)
    try:
        seed = int(str(value))
    except ValueError:
        seed = -1
    if not 0 <= seed < 2**63:
        raise row.error(f"seed is {str(value)[:60]!r}; a seed is a whole number from 0 up")
    return seed

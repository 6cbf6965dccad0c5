"""Studies from Python: run one, read its results, write the report.

>>> import crosstune
>>> study = crosstune.read_study("studies/demo.yaml")  # doctest: +SKIP
>>> crosstune.run(study)  # doctest: +SKIP
>>> results = crosstune.results("runs/demo")  # doctest: +SKIP
>>> crosstune.report("runs/demo", "report.html")  # doctest: +SKIP
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console

    from crosstune.study.spec import Study

_AT_ONCE = 20
"""Runs whose predictions are in memory together while scores are computed."""


@dataclass(frozen=True)
class Results:
    """Finished runs; predictions are read, and tables computed, when asked for.

    Attributes:
        runs: Content of each run.json.
        store: Folder of all runs.
        searches: run.json of the runs that only searched a setting on development data.
    """

    runs: list[dict[str, Any]]
    store: Path
    searches: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def predictions(self) -> "pl.DataFrame":
        """One row an example of each run (column ``run``)."""
        from crosstune.study.store import read_predictions

        return read_predictions(self.store, self.runs)

    def each(self) -> "Iterator[pl.DataFrame]":
        """The predictions of a few runs after the other: those of a large store need not fit into memory."""
        from crosstune.study.store import read_predictions

        starts = range(0, len(self.runs), _AT_ONCE)
        return (read_predictions(self.store, self.runs[start : start + _AT_ONCE]) for start in starts)

    @cached_property
    def scores(self) -> "pl.DataFrame":
        """One row per run and language; see `crosstune.analysis.transfer.language_scores`."""
        from crosstune.analysis.transfer import language_scores

        return language_scores(self.runs, self.each())

    @cached_property
    def transfer(self) -> "pl.DataFrame":
        """One row per model, task and method; see `crosstune.analysis.transfer.transfer`."""
        from crosstune.analysis.transfer import transfer

        return transfer(self.scores)

    @cached_property
    def costs(self) -> "pl.DataFrame":
        """One row per model, task, method and kind of run; see `crosstune.analysis.costs.costs`."""
        from crosstune.analysis.costs import costs

        return costs([*self.searches, *self.runs])


def run(study: "Study", *, console: "Console | None" = None, retry_failed: bool = False) -> Results:
    """Make every run of a study that its store does not hold yet, and read the results of all.

    Args:
        study: From `read_study`, or ``crosstune.Study(name=..., model=..., tasks=[...], methods=[...])``.
        console: Where progress goes; standard error by default.
        retry_failed: Try the runs again that failed before.

    Raises:
        UserError: The model cannot be loaded, the disk is full, a run failed, ...
        KeyboardInterrupt: After Ctrl-C; finished runs are kept, and the same call goes on.
    """
    from crosstune.study.runner import run_study

    summary = run_study(study, console=console, retry_failed=retry_failed)
    return results(summary.store, only=summary.runs)


def results(store: str | Path, *, only: Collection[str] | None = None) -> Results:
    """Read the finished runs of a store.

    Args:
        store: Folder that a study ran into.
        only: Ids to read; all by default.

    Raises:
        UserError: No store, no runs in it, or a damaged file (named).
    """
    from crosstune.study import store as stored

    folder = Path(store)
    there = stored.read_runs(folder, None)
    results, searches = (
        [run for run in there if run.get("kind", "result") == kind] for kind in ("result", "search")
    )
    if only is not None:
        results = [run for run in results if run["id"] in only]
        wanted = {each for run in results for each in (run.get("search") or {}).get("runs", ())}
        searches = [run for run in searches if run["id"] in wanted]
    return Results(results, folder, searches)


def report(store: str | Path, out: str | Path | None = None, *, title: str | None = None) -> Path:
    """Write the results of a store as one HTML file.

    Args:
        store: Folder that a study ran into.
        out: The file; ``report.html`` in the store by default.
        title: Heading; made of the studies' names by default.

    Returns:
        The file's path.

    Raises:
        UserError: As `results`, or the file cannot be written.
    """
    from crosstune.report.html import write_report

    found = results(store)
    names = sorted({str(run["study"]) for run in found.runs})
    path = Path(store) / "report.html" if out is None else Path(out)
    return write_report(found.runs, found.predictions, path, title or ", ".join(names))

"""Studies from Python: run one, read its results, write the report.

Examples:
    >>> import crosstune
    >>> study = crosstune.read_study("studies/demo.yaml")  # doctest: +SKIP
    >>> crosstune.run(study)  # doctest: +SKIP
    >>> results = crosstune.results("runs/demo")  # doctest: +SKIP
    >>> crosstune.report("runs/demo", "report.html")  # doctest: +SKIP
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosstune.errors import UserError, did_you_mean
from crosstune.files import user_path

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console

    from crosstune.analysis.groups import Grouping
    from crosstune.analysis.predictions import Predictions
    from crosstune.claims.file import Claim, PlacedClaim
    from crosstune.claims.judge import Verdict
    from crosstune.planning.plan import StudyPlan
    from crosstune.report.notebook import Charts
    from crosstune.report.sections import Section
    from crosstune.store.audit import Audit
    from crosstune.store.frozen import Frozen
    from crosstune.store.record import RunRecord
    from crosstune.study.spec import Study

    Claims = str | Path | Claim | Sequence[str | Path | Claim]


@dataclass(frozen=True, repr=False)
class Results:
    """Finished runs; the tables are read and computed when asked for.

    Attributes:
        runs: The record of each (`crosstune.store.record.RunRecord`).
        source: Where their predictions are read, one run at a time.
        searches: Records of the runs that only searched a setting, or trained a stage, for them.
        frozen: Files of claims that were fixed in the store (`crosstune.store.frozen`).
    """

    runs: "list[RunRecord]"
    source: "Predictions"
    searches: "list[RunRecord]" = field(default_factory=list)
    frozen: "list[Frozen]" = field(default_factory=list)

    @cached_property
    def predictions(self) -> "pl.DataFrame":
        """One row an example of each run (column ``run``), with every column: all of them in memory."""
        return self.source.whole(self.runs)

    @cached_property
    def scores(self) -> "pl.DataFrame":
        """One row per run and language; see `crosstune.analysis.transfer.language_scores`."""
        from crosstune.analysis.transfer import language_scores

        return language_scores(self.runs, self.source)

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

    @cached_property
    def sections(self) -> "list[Section]":
        """The sets of runs that may be compared; see `crosstune.report.sections.sections`."""
        from crosstune.report.sections import sections

        return sections(self.runs, self.source, self.scores)

    @cached_property
    def differences(self) -> "pl.DataFrame":
        """Paired differences of all pairs of methods, one row a pair, with columns model, task and protocol.

        The others are those of `crosstune.analysis.statistics.differences.differences`; p is over the
        pairs of one model, task and protocol. Pairs searched unequally are tested without the seeds that
        chose.
        """
        import polars as pl

        from crosstune.analysis.statistics.bootstrap import DRAWS

        tables = [
            part.pairs(DRAWS)
            .table()
            .select(
                *(pl.lit(getattr(part, name)).alias(name) for name in ("model", "task", "protocol")), pl.all()
            )
            for part in self.sections
            if part.paired is not None
        ]
        return pl.concat(tables) if tables else pl.DataFrame()

    @cached_property
    def suite(self) -> "pl.DataFrame":
        """XTREME-R's tasks by model and method; see `crosstune.analysis.suite.suite_scores`."""
        from crosstune.analysis.suite import suite_scores

        return suite_scores(self.scores)

    def __repr__(self) -> str:
        tasks = ", ".join(dict.fromkeys(run.task.name for run in self.runs))
        return f"<crosstune.Results: {len(self.runs)} runs on {tasks}; see .transfer, .scores, .predictions>"

    def _repr_html_(self) -> str:
        """The table of transfer by method, for a notebook."""
        from crosstune.report.notebook import as_html

        return as_html(self.sections)

    def groups(self, by: "Grouping") -> "pl.DataFrame":
        """Means over groups of target languages; see `crosstune.analysis.groups.group_means`."""
        from crosstune.analysis.groups import group_means

        return group_means(self.scores, by)

    @property
    def charts(self) -> "Charts":
        """Their figures and tables: ``results.charts.heatmap("sib200")``, ``results.charts.draw(id)``."""
        from crosstune.report.notebook import Charts

        return Charts(self.sections, self.runs, self.scores)

    def export(self, folder: str | Path, formats: Sequence[str] | None = None) -> list[Path]:
        """Write figures (SVG, PDF, PNG) and tables (CSV, LaTeX) into ``figures`` and ``tables`` of a folder.

        ``formats`` are of "svg", "pdf", "png", "csv" and "tex", all by default. Returns the files written.

        Raises:
            UserError: An unknown format, or a folder that cannot be written.
        """
        from crosstune.report.export import FORMATS, export

        parts, verdicts = self.sections, self.verdicts()
        return export(parts, self.runs, self.scores, verdicts, user_path(folder), formats or FORMATS)

    def verdicts(self, claims: "Claims | None" = None) -> "list[Verdict]":
        """Hold the results against claims; see docs/claims.md.

        Args:
            claims: A file of claims, the name of one that crosstune ships, a claim, or a list of these; by
                default every claim that crosstune ships and that is about a model of these results.

        Raises:
            UserError: A file that cannot be read, or a mistake in it (its line named).
        """
        from crosstune.claims.judge import about, judge

        placed = placed_claims(claims)
        wanted = about(placed, self.runs) if claims is None else placed
        return judge(wanted, self.runs, self.source, self.scores, self.frozen)

    def verdict(self, claims: "Claims | None" = None) -> "pl.DataFrame":
        """`verdicts` as a table, one row a claim; see `crosstune.claims.judge.verdict_table`."""
        from crosstune.claims.judge import verdict_table

        return verdict_table(self.verdicts(claims))


def placed_claims(claims: "Claims | None") -> "list[PlacedClaim]":
    """The claims that files, names and claims stand for; all that crosstune ships for None."""
    from crosstune.claims.file import Claim, PlacedClaim, read_claims, shipped

    if claims is None:
        claims = list(shipped())
    listed = []
    for claim in [claims] if isinstance(claims, str | Path | Claim) else claims:
        listed += [PlacedClaim(claim, "")] if isinstance(claim, Claim) else read_claims(claim)
    for placed in listed:
        _check_settings(placed)
    return listed


def _check_settings(placed: "PlacedClaim") -> None:
    """Refuse settings that nothing has: no run could ever be as the claim says."""
    from crosstune.claims.stated import check_keys
    from crosstune.methods import METHODS
    from crosstune.outputs.settings import EvaluateSettings
    from crosstune.training.settings import TrainSettings

    claim = placed.claim
    settings = {key for method in METHODS.values() for key in method.Config.model_fields}
    check_keys(claim, {*settings, *TrainSettings.model_fields}, placed.place)
    train, evaluate = TrainSettings.model_fields, EvaluateSettings.model_fields
    named: list[tuple[Iterable[str], Iterable[str], str]] = [(claim.evaluate, evaluate, "evaluate")]
    for pick in (*claim.method, *((claim.against,) if claim.against else ())):
        if pick.name in METHODS:
            config = METHODS[pick.name].Config.model_fields
            named += [(pick.settings, config, pick.name), (pick.train, train, "train")]
            if claim.varies_with is not None:
                named.append(([claim.varies_with], {*config, *train}, pick.name))
    for keys, known, what in named:
        for key in set(keys) - set(known):
            place = f"{placed.place}: " if placed.place else ""
            raise UserError(f'{place}{what} has no setting "{key}"{did_you_mean(key, known)}')


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
    from crosstune.running.runner import run_study

    summary = run_study(study, console=console, retry_failed=retry_failed)
    return results(summary.store, only=summary.runs)


def results(store: str | Path, *, only: Collection[str] | None = None) -> Results:
    """Read the finished runs of a store, or only those with some ids.

    Raises:
        UserError: No store, no runs in it, or a damaged file (named).
    """
    from crosstune.analysis.predictions import Predictions
    from crosstune.store import store as stored
    from crosstune.store.frozen import read_frozen

    folder = user_path(store)
    every = stored.read_runs(folder, kind=None)
    runs = [run for run in every if run.kind == "result" and (only is None or run.id in only)]
    wanted = {run_id for run in runs if run.search is not None for run_id in run.search.runs}
    wanted |= {stage.run for run in runs if run.unlabelled for stage in run.unlabelled.stages.values()}
    searches = [run for run in every if run.kind != "result" and (only is None or run.id in wanted)]
    return Results(runs, Predictions(folder), searches, read_frozen(folder))


def import_results(
    files: "str | Path | Sequence[str | Path]", store: str | Path, *, source: str = "en", **about: Any
) -> Results:
    """Put results of another program into a store: lm-evaluation-harness's samples, or a table of answers.

    Args:
        files: A table (CSV, TSV, JSON lines, parquet) with columns language, example, method and score; a
            ``samples_*.jsonl`` that lm-evaluation-harness wrote with ``--log_samples``, or a folder of these.
        store: A store, or a folder to make one of.
        source: Code of the language that methods were trained in.
        about: What the files do not say: fields of `crosstune.importing.lm_eval.Samples`.

    Raises:
        UserError: A file that cannot be read or used; file and line are named.
    """
    from crosstune.importing.into_store import import_files
    from crosstune.importing.lm_eval import Samples

    listed = [files] if isinstance(files, str | Path) else files
    samples = Samples(
        **{"model": "imported", **{key: value for key, value in about.items() if value is not None}}
    )
    records = import_files([user_path(file) for file in listed], user_path(store), samples, source)
    return results(store, only=[run.id for run in records])


def report(
    store: str | Path,
    out: str | Path | None = None,
    *,
    title: str | None = None,
    claims: "Claims | None" = None,
) -> Path:
    """Write the results of a store as one HTML file, and return its path.

    Args:
        store: Folder that a study ran into.
        out: The file; ``report.html`` in the store by default.
        title: Heading; made of the studies' names by default.
        claims: As `Results.verdicts`: the claims whose verdicts the page ends with; "none" for none.
            By default those alone that the results say something of.

    Raises:
        UserError: As `results`, or the file cannot be written.
    """
    from crosstune.report.page.html import write_report

    read = results(store)
    names = sorted({run.study for run in read.runs})
    path = user_path(store) / "report.html" if out is None else user_path(out)
    heading = title or ", ".join(names)
    verdicts = [] if claims in ("none", ["none"]) else read.verdicts(claims)
    if claims is None:
        verdicts = [verdict for verdict in verdicts if verdict.cell.difference is not None]
    return write_report(read.sections, read.source, path, heading, verdicts)


def plan(study: "Study") -> "StudyPlan":
    """The runs of a study, what is done of them, and what the rest will take.

    Raises:
        UserError: A model whose shape cannot be read.
    """
    from crosstune.planning.plan import plan_study

    return plan_study(study)


def check(store: str | Path) -> "Audit":
    """Audit a store: checksums, records and tables of every run. Nothing is changed.

    Raises:
        UserError: No store.
    """
    from crosstune.data.forms import FORMS
    from crosstune.store.audit import audit

    return audit(user_path(store), FORMS)

"""The verb that takes results of other programs."""

from pathlib import Path
from typing import Annotated

import typer

from crosstune.cli.printing import say


def import_results(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="Tables of answers, or lm-evaluation-harness's samples or folders of them.",
        ),
    ],
    store: Annotated[Path, typer.Option(help="Folder of the results; made where it is missing.")],
    *,
    model: Annotated[str | None, typer.Option(help="The model that all methods share.")] = None,
    method: Annotated[
        str | None,
        typer.Option(help="Of lm-evaluation-harness's samples; by default the folders that tell them apart."),
    ] = None,
    task: Annotated[str | None, typer.Option(help="One name for the tasks of all languages.")] = None,
    language: Annotated[str | None, typer.Option(help="Where the task's name does not end in it.")] = None,
    metric: Annotated[str | None, typer.Option(help="Of samples; by default the first.")] = None,
    filter_: Annotated[str | None, typer.Option("--filter", help="Of samples with several filters.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the method's training.")] = None,
    source: Annotated[str, typer.Option(help="Language that methods were trained in.")] = "en",
) -> None:
    """Put results of another program into a store.

    They get the same tests, page and verdicts. A table (CSV, TSV, JSON lines, parquet) has columns language,
    example, method and score, and may have model, task, seed, prediction, gold and cluster.
    lm-evaluation-harness writes samples with --log_samples.

    Example: crosstune import lm_eval_output/ --store runs/theirs --model meta-llama/Llama-3.1-8B
    """
    from crosstune import api

    about = {"model": model, "method": method, "task": task, "language": language, "metric": metric}
    imported = api.import_results(files, store, source=source, filter=filter_, seed=seed, **about)
    sets = len(imported.sections)
    say(
        f"runs: {len(imported.runs)}, in {sets} {'set' if sets == 1 else 'sets'} "
        f"that can be compared, in {store}"
    )
    say(f"for tables: crosstune results {store}; for a page: crosstune report {store}")

"""The verb that writes results, and trained runs, for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from crosstune.cli.options import StoreFolder
from crosstune.cli.printing import say
from crosstune.errors import UserError

_TASKS = "lm-eval-tasks"


def export(
    store: StoreFolder,
    target: Annotated[
        str, typer.Argument(metavar="FOLDER|RUN", help="Where the files go; with the next two, a run's id.")
    ],
    *,
    adapter: Annotated[
        Path | None, typer.Option(help="Write what the run trained as a folder of PEFT's.")
    ] = None,
    merged: Annotated[
        Path | None, typer.Option(help="Write the model with what the run trained in its weights.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Of a method with other weights for each language: whose to write.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="And upload it to the hub, as private.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    form: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="svg, pdf, png, csv or tex, all by default; or lm-eval, lm-eval-tasks; repeatable.",
        ),
    ] = None,
) -> None:
    """Write figures and tables, or a trained run for other programs.

    Figures are SVG, PDF and PNG, tables CSV and LaTeX. What is written of a run computes what the run
    computed: its logits are compared. The folder has a card with the results by language.

    Example: crosstune export runs/demo paper --format pdf --format tex

    Example: crosstune export runs/demo 0123456789abcdef --adapter my-lora

    Example: crosstune export runs/demo tasks --format lm-eval-tasks
    """
    if adapter is None and merged is None:
        if push is not None:
            raise UserError("--push needs --adapter FOLDER or --merged FOLDER, which it uploads")
        from crosstune import api

        files: list[Path] = []
        remarks: list[str] = []
        if _TASKS in (form or ()):
            from crosstune.exporting.lm_eval_tasks import write_tasks

            files, remarks = write_tasks(store, Path(target))
        if form is None or (form := [name for name in form if name != _TASKS]):
            files += api.results(store).export(Path(target), form)
        for line in [*files, *remarks]:
            say(str(line))
        return
    if adapter is not None and merged is not None:
        raise UserError("give --adapter or --merged, one at a time")
    from crosstune.exporting.card import write_card
    from crosstune.exporting.folders import write_adapter, write_merged

    run = store / target
    write, folder = (write_merged, merged) if merged else (write_adapter, adapter or Path())
    written = write(run, folder, device, language)
    card = write_card(run, written)
    gap = (
        "are not compared"
        if written.gap is None
        else f"differ from the run's by {written.gap:.1g} of the largest"
    )
    say(f"{written.kind}: {written.folder}; logits {gap}")
    for remark in written.remarks:
        say(remark)
    say(f"card: {card}")
    if push is not None:
        from crosstune.exporting.push import push as upload

        say(f"uploaded: {upload(written.folder, push)}")

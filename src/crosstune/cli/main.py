"""The command line: verbs that call the Python API, and nothing else. Heavy imports wait for their verb."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from crosstune.cli.claims import freeze, verdict
from crosstune.cli.exporting import export
from crosstune.cli.importing import import_results
from crosstune.cli.options import Changes, Claims, Form, Limit, Seeds, StoreFolder, read_changed
from crosstune.cli.params import params
from crosstune.cli.printing import complain, print_csv, print_json, print_runs, say, show
from crosstune.cli.starting import init
from crosstune.errors import UserError
from crosstune.files import user_path

app = typer.Typer(
    help="Tune a language model in English by several methods; measure how far each carries into others.",
    epilog="Start with: crosstune demo, or crosstune init",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    rich_markup_mode=None,
)


StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study's file.")]
Store = Annotated[
    str | None, typer.Option(help="Folder of the results; over the study's own, or runs/<name>.")
]
Dtype = Annotated[str | None, typer.Option(help="auto, bfloat16, float32, ...; over the study's own.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps; over the study's own.")]


def _version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def _main(
    debug: Annotated[bool, typer.Option("--debug", help="Show where in the code an error arose.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Read by `main` before anything else runs, so that it also covers the arguments themselves."""


@app.command()
def run(
    study: StudyFile,
    store: Store = None,
    device: Device = None,
    dtype: Dtype = None,
    limit: Limit = None,
    seed: Seeds = None,
    changes: Changes = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Make the runs again that failed before.")
    ] = False,
    executor: Annotated[
        Literal["local", "ray"],
        typer.Option(help="local: this process; ray: several workers (docs/cluster.md)."),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="With ray: number of workers; by default one per GPU, or per machine."),
    ] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="With ray: cores per worker.")] = None,
    gpus: Annotated[float | None, typer.Option(min=0, help="With ray: GPUs per worker.")] = None,
    address: Annotated[
        str | None,
        typer.Option(help="With ray: address of a cluster, auto or host:port; by default this machine."),
    ] = None,
) -> None:
    """Run a study: train and evaluate all its unfinished runs.

    Ctrl-C stops it; the same command resumes. Several processes, on one or more machines with a shared
    store, can work on a study at the same time. Runs with other settings (--limit, --seed, --set) are other
    runs: they stand beside the study's own in its store.

    Example: crosstune run studies/demo.yaml --device cpu

    Example: crosstune run studies/demo.yaml --limit 20 --seed 3 --set train.steps=10
    """
    from crosstune.api import results as read
    from crosstune.report.terminal import results_table
    from crosstune.running.interrupts import Stopped
    from crosstune.running.runner import run_study

    on_ray: dict[str, Any] = {"workers": workers, "cpus": cpus, "gpus": gpus, "address": address}
    for name, value in on_ray.items():
        if executor != "ray" and value is not None:
            raise UserError(f"--{name} is for --executor ray; add that, or leave it out")
    options = {"store": store, "device": device, "dtype": dtype}
    changed = read_changed(study, options, limit, seed, changes)
    try:
        if executor == "ray":
            from crosstune.running.on_ray import run_on_ray

            summary = run_on_ray(changed, **on_ray, retry_failed=retry_failed)
        else:
            summary = run_study(changed, retry_failed=retry_failed)
    except Stopped as stop:
        complain(str(stop), style="yellow")
        raise typer.Exit(stop.exit_code) from None
    show(results_table(read(summary.store, only=summary.runs).sections))
    say(f"for a report: crosstune report {summary.store}")


@app.command()
def plan(
    study: StudyFile,
    *,
    store: Store = None,
    device: Device = None,
    dtype: Dtype = None,
    limit: Limit = None,
    seed: Seeds = None,
    changes: Changes = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Load the models and time a few steps of each method first.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it for other programs.")] = False,
    power: Annotated[
        float | None, typer.Option(min=0.1, max=99, help="A difference in points that the study should tell.")
    ] = None,
    spreads_of: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="With --power: finished runs that tell how scores vary."),
    ] = None,
) -> None:
    """Show the runs of a study, progress, estimated time and memory.

    Estimates come from similar finished runs, or from a calibration on this machine.

    Example: crosstune plan studies/demo.yaml --calibrate
    """
    from crosstune.planning.plan import plan_study
    from crosstune.planning.table import plan_table

    if spreads_of is not None and power is None:
        raise UserError("--from belongs to --power: plan STUDY.yaml --power 6 --from DIR")
    options = {"store": store, "device": device, "dtype": dtype}
    changed = read_changed(study, options, limit, seed, changes)
    if calibrate:
        from crosstune.planning.calibrate import calibrate as measure

        measure(changed, lambda line: complain(line, style="dim"))
    planned = plan_study(changed)
    if as_json:
        print_json(planned.as_dict())
    else:
        show(plan_table(planned, str(study)))
        for line in changed.absent:
            say(line)
    if power is not None and not as_json:
        from crosstune.planning.power import of_study

        for line in of_study(changed, planned, power / 100, spreads_of and user_path(spreads_of)):
            say(line)
    if planned.refused:
        raise typer.Exit(2)


@app.command()
def results(
    store: StoreFolder,
    form: Form = "table",
    cost: Annotated[
        bool, typer.Option("--cost", help="Print what the runs cost instead: time, tokens, memory, energy.")
    ] = False,
    runs: Annotated[
        bool, typer.Option("--runs", help="Print the runs instead, by their ids and folders.")
    ] = False,
) -> None:
    """Print results: a table, or rows for other programs.

    csv has one row per run and language; json has these and one row per method.

    Example: crosstune results runs/demo --format csv > scores.csv
    """
    from crosstune import api
    from crosstune.report.terminal import costs_table, results_table

    read = api.results(store)
    if runs and form == "table":
        print_runs(read, store)
    elif form == "table":
        show(costs_table(read.costs) if cost else results_table(read.sections))
    elif form == "csv":
        print_csv(read.costs if cost else read.scores)
    else:
        tables = {"costs": read.costs} if cost else {"transfer": read.transfer, "scores": read.scores}
        print_json({name: table.to_dicts() for name, table in tables.items()})


app.command()(init)


@app.command()
def demo() -> None:
    """Run the demo and write its report: minutes on two cores.

    Five methods on two tasks, each in English and 23 other languages. The model, Gemma 3 270M, comes from
    PyPI (240 MB; Google's Gemma Terms of Use apply). Results go to runs/demo; the same command resumes.
    """
    run(Path("studies", "demo.yaml"))
    report(Path("runs", "demo"))


app.command("import")(import_results)


@app.command()
def check(store: StoreFolder) -> None:
    """Audit a store: every file of every run.

    What lies beside them is named, and nothing is changed.

    Exit code 2 if a file is damaged; crosstune run moves damaged runs aside and repeats them.

    Example: crosstune check runs/demo
    """
    from crosstune import api

    state = api.check(store)
    for text in (*state.notes, *state.problems):
        say(text)
    counts = {"searches": state.searches, "stages": state.stages}
    others = "".join(f" and {count} {name}" for name, count in counts.items() if count)
    say(f"{state.results} results{others} are whole, {state.bytes / 2**20:,.1f} MiB")
    if state.problems:
        raise UserError(
            f"{len(state.problems)} runs of {store} are damaged; run the study again to mend them"
        )


app.command()(verdict)
app.command()(freeze)


@app.command()
def report(
    store: StoreFolder,
    out: Annotated[Path | None, typer.Option(help="The file; DIR/report.html by default.")] = None,
    claims: Claims = None,
) -> None:
    """Write results as one HTML file; print its path.

    It opens with what was found, and ends with the verdicts on claims that the results speak to (with
    --claims none there are no verdicts). The file needs nothing beside it and asks the network for nothing.

    Example: crosstune report runs/demo --out demo.html
    """
    from crosstune import api

    say(str(api.report(store, out, claims=claims or None)))


app.command()(export)
app.command()(params)


@app.command("list")
def list_(
    thing: Annotated[
        Literal["methods", "tasks", "models", "languages", "presets", "claims", "studies", "docs"],
        typer.Argument(help="What to list."),
    ],
) -> None:
    """List methods, tasks, models, languages and the like.

    Example: crosstune list languages
    """
    from crosstune.cli.listing import LISTS

    LISTS[thing]()


@app.command()
def predict(
    run_folder: Annotated[
        Path, typer.Argument(metavar="RUN_DIR", help="A run's folder, such as runs/demo/<id>.")
    ],
    *,
    text: Annotated[str, typer.Option(help="What to ask: the text inside the task's prompt.")],
    language: Annotated[
        str | None, typer.Option(help="Language of the prompt; the source language by default.")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="The text is the whole prompt.")] = False,
    choice: Annotated[list[str] | None, typer.Option(help="A choice, for tasks without fixed ones.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    task: Annotated[
        Path | None, typer.Option(help="The run's own Python task, which is run; only the very same file.")
    ] = None,
) -> None:
    """Ask one thing of a finished run's tuned model.

    Example: crosstune predict runs/demo/0123456789abcdef --text Deutschland
    """
    from crosstune.running.predict import predict as ask

    answer = ask(
        run_folder, text, language=language, raw=raw, choices=choice or (), device=device, task_file=task
    )
    for name, share in answer.choices:
        say(f"{share:.3f}  {name}")
    if not answer.choices:
        say(answer.answer)


@app.command()
def version() -> None:
    """Print the version."""
    import crosstune

    say(crosstune.__version__)


def main() -> NoReturn:
    """Entry point: run the command line and exit.

    Exit codes: 0 done, 2 a mistake in what was given, 130 Ctrl-C, 143 SIGTERM.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    # Where it is installed, PEFT imports it, and it then tells of a kernel of its own that nobody asked for.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        app(args=arguments, prog_name="crosstune")
    except UserError as error:
        if "--debug" in sys.argv:
            raise
        complain(f"error: {error}", style="red")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader (head, less) has gone; leave Python nothing to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if "--debug" in sys.argv:
            raise
        complain(f"error: {error.filename or 'a file'}: {error.strerror or error}", style="red")
        sys.exit(2)
    sys.exit(0)

"""Arguments and options that several verbs take."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Form = Annotated[Literal["table", "csv", "json"], typer.Option("--format", help="How to print them.")]
Claims = Annotated[
    list[str] | None,
    typer.Option(help="A file of claims, or a name from crosstune list claims; repeatable."),
]
StoreFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder a study ran into, such as runs/demo.")
]

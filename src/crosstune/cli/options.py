"""Arguments and options that several verbs take, and the study that they are about."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from crosstune.errors import UserError

if TYPE_CHECKING:
    from crosstune.study.spec import Study

Form = Annotated[Literal["table", "csv", "json"], typer.Option("--format", help="How to print them.")]
Claims = Annotated[
    list[str] | None, typer.Option(help="A file of claims, or a name from crosstune list claims; repeatable.")
]
StoreFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder a study ran into, such as runs/demo.")
]
Limit = Annotated[int | None, typer.Option(help="Test examples a language, over the study's own.")]
Seeds = Annotated[list[int] | None, typer.Option(help="A seed in place of the study's; repeatable.")]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A key of the study, such as train.steps=10; repeatable."
    ),
]


def read_changed(
    file: Path,
    options: Mapping[str, str | None],
    limit: int | None = None,
    seeds: Sequence[int] | None = None,
    settings: Sequence[str] | None = None,
) -> "Study":
    """The study in a file, with options and settings in place of its own.

    A path such as studies/demo.yaml that is not there is the study that comes with crosstune.

    Raises:
        UserError: A mistake in the file or in a setting, or an empty option, as from an unset shell variable.
    """
    from crosstune.config.yaml_file import parse_value
    from crosstune.study.ready import found
    from crosstune.study.spec import read_study

    changes: dict[str, Any] = {}
    for setting in settings or ():
        key, equals, text = setting.partition("=")
        if not equals or not all(key.split(".")):
            raise UserError(f'--set "{setting}": give KEY=VALUE, such as train.steps=10')
        changes[key] = parse_value(text)
    if limit is not None:
        changes["evaluate.limit"] = limit
    if seeds:
        changes["seeds"] = list(seeds)
    study = read_study(found(file), changes)
    for name, value in options.items():
        if value == "":
            raise UserError(f"--{name} is empty; give it a value, or leave it out")
    return study.model_copy(update={name: value for name, value in options.items() if value is not None})

"""The verb of a first day: write a study by answering four questions."""

from pathlib import Path
from typing import Annotated

import typer

from crosstune.cli.printing import say
from crosstune.errors import UserError
from crosstune.files import write_whole

_STUDY = """\
# Written by crosstune init. Every key: docs/studies.md.
#
#   crosstune plan {file}       # runs, sizes, time
#   crosstune run {file} --limit 20 --set train.steps=10      # a quick look first
#   crosstune run {file}
name: {name}
model: {model}
tasks: [{tasks}]
methods: [{methods}]
languages: {languages}
train: {{steps: 60, batch_size: 16}}
seeds: [0, 1, 2]
"""


def init(
    file: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The file to write.")] = Path(
        "study.yaml"
    ),
) -> None:
    """Write a study from the answers to four questions.

    Asks for the model, the tasks, the methods and the languages. Enter takes the default.

    Example: crosstune init mine.yaml
    """
    from crosstune.study.spec import read_study

    if file.exists():
        raise UserError(f"{file} is there already; name another file: crosstune init other.yaml")
    answers = {
        "model": typer.prompt("Model (a hub id, a folder, or demo:gemma-3-270m)", "demo:gemma-3-270m"),
        "tasks": typer.prompt("Tasks (crosstune list tasks, or a task's file)", "cldr-names"),
        "methods": typer.prompt("Methods (crosstune list methods)", "none, lora, prefix"),
        "languages": typer.prompt("Languages (codes or names; all)", "de, ru, hi, sw, zh, ar"),
    }
    if answers["languages"].strip() != "all":
        answers["languages"] = f"[{answers['languages']}]"
    name = (
        "".join(char if char.isalnum() or char in "_-." else "-" for char in file.stem).strip("-.") or "mine"
    )
    draft = file.with_name(f".{file.stem}-draft.yaml")
    try:
        write_whole(draft, _STUDY.format(file=file, name=name, **answers))
        read_study(draft)
        write_whole(file, draft.read_text(encoding="utf-8"))
    except UserError as error:
        raise UserError(f"{str(error).replace(str(draft), str(file))}; nothing was written") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror}); name another file") from error
    finally:
        draft.unlink(missing_ok=True)
    say(f"{file} is written; next: crosstune plan {file}, then crosstune run {file}")

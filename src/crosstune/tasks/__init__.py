"""The tasks, by the name a study file uses."""

from pydantic import ValidationError

from crosstune.errors import UserError, did_you_mean
from crosstune.tasks.base import Task
from crosstune.tasks.cldr_names import CldrNames
from crosstune.tasks.number_words import NumberWords
from crosstune.tasks.sib200 import Sib200

TASKS: dict[str, type[Task]] = {
    "cldr-names": CldrNames,
    "number-words": NumberWords,
    "sib200": Sib200,
}


def make_task(name: str, options: dict[str, object] | None = None) -> Task:
    """A task by name, with the options a study file gives it.

    Raises:
        UserError: Unknown task, unknown option, or a value the option does not take.
    """
    if name not in TASKS:
        raise UserError(f'unknown task "{name}"{did_you_mean(name, TASKS)}')
    kind = TASKS[name]
    try:
        return kind(kind.Options.model_validate(options or {}))
    except ValidationError as invalid:
        first = invalid.errors()[0]
        option = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = list(kind.Options.model_fields)
            hint = did_you_mean(option, known) if known else "; it has no options"
            raise UserError(f'task {name} has no option "{option}"{hint}') from None
        raise UserError(f'task {name}, option "{option}": {first["msg"]}, not {first["input"]!r}') from None

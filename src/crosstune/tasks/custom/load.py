"""A user's own task, loaded from the one YAML or Python file that says all about it."""

import ast
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from crosstune.data.example import MOST_ANSWER_TOKENS, Split
from crosstune.data.forms import CUSTOM, FORMS
from crosstune.errors import UserError
from crosstune.files import MOST_TEXT, as_text, read_bytes, user_path
from crosstune.languages import LANGUAGES
from crosstune.metrics.corpus import CORPUS
from crosstune.metrics.tagging import cannot_score
from crosstune.tasks.base import Task, TaskOptions
from crosstune.tasks.custom.definition import NAME
from crosstune.tasks.custom.make import make_class
from crosstune.tasks.custom.returned import CHECKS, Wrong

Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]

SUFFIXES = (".yaml", ".yml", ".py")
"""How a task's file may end."""


@dataclass(frozen=True)
class TaskFile:
    """A task, the file that defines it, and the SHA-256 of its content, 64 hex digits."""

    path: Path
    sha256: str
    task: type[Task]

    def make(self, options: Mapping[str, Any]) -> Task:
        """The task with options as run.json has them."""
        return self.task(self.task.Options.model_validate(options))


def load_task(path: str | Path, sha256: str | None = None, of: str = "") -> TaskFile:
    """Read a user's task (docs/custom-tasks.md). A Python file is run: load none that you have not read.

    ``sha256`` is what the content must have, compared before anything of it is used; ``of`` names what was
    made with it. While the file stays the same, so does the class.

    Raises:
        UserError: ``<file>:<line>: <what is wrong>``; a Python task's later errors are told so too.
    """
    path = user_path(path).absolute()
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: a task's file ends in {', '.join(SUFFIXES)}")
    raw = read_bytes(path, MOST_TEXT)
    if sha256 is not None and hashlib.sha256(raw).hexdigest() != sha256:
        raise UserError(
            f"{path} has changed since {of} was made with it; run the study again, or give the file its old "
            "content back"
        )
    return _load(path, raw)


@cache
def _load(path: Path, raw: bytes) -> TaskFile:
    sha256 = hashlib.sha256(raw).hexdigest()
    if path.suffix == ".py":
        return TaskFile(path, sha256, _from_python(path, raw))
    return TaskFile(path, sha256, make_class(as_text(raw, path), path))


def _from_python(path: Path, raw: bytes) -> type[Task]:
    """Run a Python file as a module of its own and take the task it defines."""
    try:
        tree = ast.parse(raw, str(path))
    except SyntaxError as error:
        raise UserError(f"{path}:{error.lineno or 1}: not valid Python: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}:1: not valid Python: {error}") from error
    name = f"crosstune_task_{hashlib.sha256(bytes(path) + raw).hexdigest()[:16]}"
    module = ModuleType(name)
    module.__file__ = str(path)
    # Dataclasses and pydantic look their module up by name.
    sys.modules[name] = module
    with _told(path):
        # Not by importlib: its bytecode cache may hold an older text than the one that was hashed.
        exec(compile(tree, str(path), "exec", dont_inherit=True), module.__dict__)
    lines = {node.name: node.lineno for node in tree.body if isinstance(node, ast.ClassDef)}
    task = _only_task(path, module, lines)
    if wrong := _lacks(task):
        raise UserError(f"{path}:{lines.get(task.__name__, 1)}: class {task.__name__}: {wrong}")
    return _guarded(task, path)


def _only_task(path: Path, module: ModuleType, lines: Mapping[str, int]) -> type[Task]:
    """The one subclass of `Task` that a module defines and that can be made."""
    tasks: dict[str, type[Task]] = {
        value.__name__: value for value in vars(module).values() if _is_own_task(value, module)
    }
    if not tasks:
        raise UserError(f"{path}:1: no task: define one subclass of crosstune.tasks.base.Task")
    concrete = [name for name, task in tasks.items() if not inspect.isabstract(task)]
    if not concrete:
        name, task = next(iter(tasks.items()))
        lacking = ", ".join(sorted(task.__abstractmethods__))
        raise UserError(f"{path}:{lines.get(name, 1)}: class {name} does not define {lacking}")
    if len(concrete) > 1:
        line = lines.get(concrete[1], 1)
        raise UserError(
            f"{path}:{line}: a second task, {concrete[1]}, beside {concrete[0]}; give each its own file"
        )
    return tasks[concrete[0]]


def _is_own_task(value: object, module: ModuleType) -> bool:
    return isinstance(value, type) and issubclass(value, Task) and value.__module__ == module.__name__


def _whole(text: str) -> str:
    text.encode()  # half a character is a ValueError
    return text


def _canonical(code: str) -> str:
    if code not in LANGUAGES:
        raise ValueError("unknown language")
    return code


class _Facts(BaseModel):
    """What a task's class says about itself; each description is told where it does not."""

    model_config = ConfigDict(strict=True)

    name: Name = Field(description='letters, digits, "-" and "_"')
    version: int = Field(ge=1, le=10**9, description="a whole number from 1")
    kind: str = Field(
        pattern=f"^(?:{'|'.join(CUSTOM)})$", description=" or ".join(f'"{name}"' for name in CUSTOM)
    )
    metrics: tuple[Name, ...] = Field(min_length=1, description='a tuple of names such as ("accuracy",)')
    summary: Annotated[str, AfterValidator(_whole)] = Field(description="a line about the task")
    split_names: dict[Split, Annotated[str, AfterValidator(_whole)]] = Field(
        description='a dict such as {"test": "test.csv"}'
    )
    Options: type[TaskOptions] = Field(description="a subclass of TaskOptions")
    tags: tuple[Annotated[str, Field(pattern=r"^\S+$")], ...] = Field(
        default=(), description='a tuple of texts without spaces such as ("O", "B-PER")'
    )
    source_language: Annotated[str, AfterValidator(_canonical)] = Field(
        default="en", description="a code of crosstune list languages"
    )
    max_answer_tokens: int = Field(
        default=1, ge=1, le=MOST_ANSWER_TOKENS, description=f"a whole number from 1 to {MOST_ANSWER_TOKENS:,}"
    )
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), description='a tuple of texts such as ("\\n",), with a comma for one'
    )


def _lacks(task: type[Task]) -> str | None:
    """What a task's class should say about itself and does not."""
    values = {name: getattr(task, name) for name in _Facts.model_fields if hasattr(task, name)}
    facts = {name: value for name, value in values.items() if not isinstance(value, property)}
    try:
        _Facts.model_validate(facts)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        what = _Facts.model_fields[name].description
        if first["type"] == "missing":
            return f"{name} is missing; give {what}"
        return f"{name} should be {what}; found {facts[name]!r}"[:200]
    for name in CHECKS:
        value = inspect.getattr_static(task, name)
        if not callable(value) or isinstance(value, staticmethod | classmethod):
            return f"{name} should be a method, def {name}(self, ...); found {value!r}"[:200]
    form = FORMS[task.kind]
    if form.tags:
        whys = [f"metrics: {why}" for metric in task.metrics if (why := cannot_score(metric, task.tags))]
        if not task.tags or whys:
            return whys[0] if task.tags else "tags is missing; give a tuple of all tags"
    for place, metric in enumerate(task.metrics):
        if metric in CORPUS and (
            place or CORPUS[metric].of_choices != (None if form.tags else form.has_choices)
        ):
            kind = {True: "choices", False: "written answers", None: "tags"}[CORPUS[metric].of_choices]
            return f"metrics: {metric} is of a whole test set of {kind}, and comes first"
    return None


def _guarded(task: type[Task], path: Path) -> type[Task]:
    """The same task, whose own errors are told in one line with the file's, and whose answers are checked."""

    def guard(name: str) -> Callable[..., Any]:
        method, check = getattr(task, name), CHECKS[name]
        code = getattr(method, "__code__", None)
        line = code.co_firstlineno if code is not None and code.co_filename == str(path) else 1

        @wraps(method)
        def call(self: Task, *args: Any, **kwargs: Any) -> Any:
            with _told(path, line):
                value = method(self, *args, **kwargs)
            try:
                return check(self, value, *args, **kwargs)
            except Wrong as error:
                raise UserError(f"{path}:{line}: {name}: {error}") from None

        return call

    guarded: type[Task] = type(task.__name__, (task,), {name: guard(name) for name in CHECKS})
    return guarded


@contextmanager
def _told(path: Path, line: int = 1) -> Iterator[None]:
    """Turn an error of the user's code into one line that names the last line of the file it passed.

    ``line`` is named where it passed none.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == str(path):
                line = trace.tb_lineno
            trace = trace.tb_next
        try:
            message = str(error)
        except Exception:  # the user's own class
            message = "it cannot say what it is"
        what = " ".join(f"{type(error).__name__}: {message}".split())
        raise UserError(f"{path}:{line}: {what[:300]} (--debug shows where it arose)") from error

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
from typing import Any

from crosstune.data.forms import FORMS
from crosstune.errors import UserError
from crosstune.tasks.base import Task, TaskOptions
from crosstune.tasks.custom.definition import NAME
from crosstune.tasks.custom.returned import CHECKS, Wrong
from crosstune.tasks.custom.task import make_class

SUFFIXES = (".yaml", ".yml", ".py")
"""How a task's file may end."""


@dataclass(frozen=True)
class TaskFile:
    """A task and the file it comes from.

    Attributes:
        path: Of the file.
        sha256: Of its content: 64 hex digits.
        task: What it defines.
    """

    path: Path
    sha256: str
    task: type[Task]


def load_task(path: str | Path, sha256: str | None = None, of: str = "") -> TaskFile:
    """Read a user's task. A Python file is run: load none that you have not read.

    Args:
        path: A .yaml, .yml or .py file (docs/custom-tasks.md).
        sha256: That its content must have, compared before anything of it is used.
        of: What was made with that content, for the message.

    Returns:
        The task's class; while the file stays the same, the same class for every call.

    Raises:
        UserError: ``<file>:<line>: <what is wrong>``; a Python task's later errors are told so too.
    """
    path = Path(path).expanduser().absolute()
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: a task's file ends in {', '.join(SUFFIXES)}")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
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
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 text") from error
    return TaskFile(path, sha256, make_class(text, path))


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


def _lacks(task: type[Task]) -> str | None:
    """What a task's class should say about itself and does not."""
    wanted: dict[str, tuple[Callable[[Any], bool], str]] = {
        "name": (_is_name, 'letters, digits, "-" and "_"'),
        "version": (lambda value: isinstance(value, int) and value >= 1, "a whole number from 1"),
        "kind": (
            lambda value: isinstance(value, str) and value in FORMS,
            " or ".join(f'"{name}"' for name in FORMS),
        ),
        "metrics": (
            lambda value: isinstance(value, tuple) and value != () and all(map(_is_name, value)),
            'a tuple of names such as ("accuracy",)',
        ),
        "summary": (lambda value: isinstance(value, str), "a line about the task"),
        "split_names": (lambda value: isinstance(value, dict), 'a dict such as {"test": "test.csv"}'),
        "Options": (
            lambda value: isinstance(value, type) and issubclass(value, TaskOptions),
            "a subclass of TaskOptions",
        ),
    }
    for name, (fits, what) in wanted.items():
        if not hasattr(task, name):
            return f"{name} is missing; give {what}"
        if not fits(getattr(task, name)):
            return f"{name} should be {what}; found {getattr(task, name)!r}"[:200]
    return None


def _is_name(value: object) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def _guarded(task: type[Task], path: Path) -> type[Task]:
    """The same task, whose own errors are told in one line with the file's, and whose answers are checked."""

    def guard(name: str) -> Callable[..., Any]:
        method, check = getattr(task, name), CHECKS[name]

        @wraps(method)
        def call(self: Task, *args: Any, **kwargs: Any) -> Any:
            with _told(path):
                value = method(self, *args, **kwargs)
            try:
                return check(self, value, *args, **kwargs)
            except Wrong as error:
                code = getattr(method, "__code__", None)
                line = code.co_firstlineno if code is not None and code.co_filename == str(path) else 1
                raise UserError(f"{path}:{line}: {name}: {error}") from None

        return call

    guarded: type[Task] = type(task.__name__, (task,), {name: guard(name) for name in CHECKS})
    return guarded


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn an error of the user's code into one line that names the last line of the file it passed."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        line, trace = 1, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == str(path):
                line = trace.tb_lineno
            trace = trace.tb_next
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path}:{line}: {what[:300]} (--debug shows where it arose)") from error

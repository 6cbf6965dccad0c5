"""Studies and commands in processes of their own, forked from one that has imported everything once."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from crosstune.cli import main as cli
from crosstune.errors import UserError
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.running.progress import Display
from crosstune.running.runner import run_study
from crosstune.study.spec import Study
from failing_disk import Disk, watched

_context = multiprocessing.get_context("forkserver")
# What a run imports. The server itself computes nothing: threads would not survive a fork.
_context.set_forkserver_preload(
    ["pytest", "peft", "polars", "transformers.models.llama.modeling_llama", "crosstune.running.worker",
     "crosstune.report.terminal", "crosstune.running.predict", "rich.progress"]
)  # fmt: skip

Before = Callable[[], contextlib.AbstractContextManager[object]]


def started(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A process that calls a function of a module."""
    process = _context.Process(target=target, args=arguments)
    process.start()
    return process


def start(study: Study, before: Before = contextlib.nullcontext) -> BaseProcess:
    """A process that runs a study; it says what it has to say to `log_of` its store.

    Args:
        study: Its store decides whom it shares the runs with.
        before: Entered in the process around the run.
    """
    return started(_run, study, before, dict(os.environ))


def ended(process: BaseProcess) -> int:
    """Wait for a process; its exit code, negative for the signal it died of."""
    process.join(120)
    assert process.exitcode is not None, "a process does not end"
    return process.exitcode


def log_of(store: Path) -> Path:
    """Where processes say what they do in a store."""
    return store.with_name(f"{store.name}.log")


def called(folder: Path, *words: str, **environment: str) -> BaseProcess:
    """A process that runs a command in a folder, which gets its ``.stdout`` and ``.stderr``."""
    return started(_call, folder, words, environment)


def call(folder: Path, *words: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command; it runs in a folder."""
    code = ended(called(folder, *words, **environment))
    out, err = (folder / name for name in (".stdout", ".stderr"))
    result = code, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8")
    out.unlink()
    err.unlink()
    return result


def killed_at(operation: int, folder: Path) -> contextlib.AbstractContextManager[object]:
    """The process is killed at this operation on files of a folder that changes something."""
    left = operation

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return watched(Disk(folder, before_change=count))


@contextlib.contextmanager
def killed_in(step: int, batch: int) -> Any:
    """The process is killed behind this step of training or this batch of evaluation; 0 for neither."""
    left = {"trained": step, "evaluated": batch}

    def deadly(name: str) -> Callable[[Display, Any], None]:
        before = getattr(Display, name)

        def count(self: Display, progress: Any) -> None:
            left[name] -= 1
            if left[name] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            before(self, progress)

        return count

    for name in left:
        setattr(Display, name, deadly(name))
    yield


@contextlib.contextmanager
def killed_beyond(tokens: int) -> Any:
    """The process is killed when a pass of more tokens begins, as by a kernel without memory."""
    begin = TokenLimit.begin

    def begin_or_die(self: TokenLimit, rows: int, size: int) -> None:
        begin(self, rows, size)
        if size > tokens:
            os.kill(os.getpid(), signal.SIGKILL)

    TokenLimit.begin = begin_or_die  # type: ignore[method-assign]
    yield


@contextlib.contextmanager
def slowly(seconds: float) -> Any:
    """Every pass through the model takes so much longer."""
    begin = TokenLimit.begin

    def begin_late(self: TokenLimit, rows: int, size: int) -> None:
        time.sleep(seconds)
        begin(self, rows, size)

    TokenLimit.begin = begin_late  # type: ignore[method-assign]
    yield


def _run(study: Study, before: Before, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    with log_of(study.folder).open("a") as log, before():
        try:
            run_study(study, console=Console(file=log, width=300))
        except UserError as error:
            print(error, file=log)
            sys.exit(2)


def _call(folder: Path, words: tuple[str, ...], environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.update(environment, COLUMNS="200")
    torch.set_num_threads(1)
    sys.argv = ["crosstune", *words]
    with (
        (folder / ".stdout").open("w") as out,
        (folder / ".stderr").open("w") as err,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        cli.main()

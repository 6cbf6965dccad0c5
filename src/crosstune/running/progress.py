"""Progress of a study: bars on a terminal, log lines elsewhere."""

import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from crosstune.errors import inert
from crosstune.training.loop import Progress

_EVERY = 10.0  # seconds between plain lines


class Display:
    """Log lines: every note, and progress every ten seconds.

    Args:
        console: Output.
        total: Number of runs in the study.
        done: Number of runs finished before.
        check: Called at every step; raises to stop the study.

    Attributes:
        watch: Called after each training step as well; a tracker's.
    """

    def __init__(self, console: Console, total: int, done: int, check: Callable[[], None]) -> None:
        self.console, self.check = console, check
        self.total, self.done = total, done
        self.last = time.perf_counter()
        self.watch: Callable[[Progress], None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def note(self, text: str) -> None:
        """Log one line."""
        # Never wrapped: logs are searched by line.
        self.console.print(Text(inert(text)), soft_wrap=True)

    def begin(self, name: str) -> None:
        """A run starts."""
        self.note(f"[{self.done + 1}/{self.total}] {name}")
        self.last = time.perf_counter()

    def trained(self, progress: Progress) -> None:
        """A training step is done."""
        self._step(progress)
        if self._due():
            left = progress.seconds / progress.step * (progress.total - progress.step)
            self.note(f"  training {progress.step}/{progress.total}, {_speed(progress)}, {left:.0f} s left")

    def _step(self, progress: Progress) -> None:
        self.check()
        if self.watch is not None:
            self.watch(progress)

    def evaluating(self, total: int) -> None:
        """Evaluation of so many examples begins."""
        self.count, self.examples, self.since = 0, total, time.perf_counter()

    def evaluated(self, count: int) -> None:
        """So many more examples are scored."""
        self.check()
        self.count += count
        if self._due():
            took = time.perf_counter() - self.since
            left = took / self.count * (self.examples - self.count)
            speed = f"{self.count / took:,.1f} examples/s"
            self.note(f"  evaluation {self.count}/{self.examples}, {speed}, {left:.0f} s left")

    def end(self, done: int) -> None:
        """So many runs are done now."""
        self.done = done

    def _due(self) -> bool:
        if time.perf_counter() - self.last < _EVERY:
            return False
        self.last = time.perf_counter()
        return True


class BarDisplay(Display):
    """Three bars: runs, training steps, evaluated examples."""

    def __init__(self, console: Console, total: int, done: int, check: Callable[[], None]) -> None:
        super().__init__(console, total, done, check)
        self.bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[says]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self.runs = self.bars.add_task("runs", total=total, completed=done, says="")
        self.training = self.bars.add_task("training", total=None, visible=False, says="")
        self.evaluation = self.bars.add_task("evaluation", total=None, visible=False, says="")

    def __enter__(self) -> Self:
        """Show the bars."""
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bars away."""
        self.bars.stop()

    def begin(self, name: str) -> None:
        """A run starts."""
        self.bars.update(self.runs, says=inert(name))
        self.bars.reset(self.training, visible=False)

    def trained(self, progress: Progress) -> None:
        """A training step is done."""
        self._step(progress)
        # Resumed training does not start at step 1.
        self.bars.update(
            self.training, total=progress.total, completed=progress.step, visible=True, says=_speed(progress)
        )

    def evaluating(self, total: int) -> None:
        """Evaluation of so many examples begins."""
        super().evaluating(total)
        self.bars.update(self.training, visible=False)
        self.bars.reset(self.evaluation, total=total, visible=True, says="")

    def evaluated(self, count: int) -> None:
        """So many more examples are scored."""
        self.check()
        self.count += count
        speed = self.count / max(1e-9, time.perf_counter() - self.since)
        self.bars.update(self.evaluation, advance=count, says=f"{speed:,.1f} examples/s")

    def end(self, done: int) -> None:
        """So many runs are done now."""
        self.bars.update(self.runs, completed=done, says="")
        self.bars.update(self.evaluation, visible=False)


def display(console: Console, total: int, done: int, check: Callable[[], None] = lambda: None) -> Display:
    """Bars where the console is a terminal, lines elsewhere."""
    return (BarDisplay if console.is_terminal else Display)(console, total, done, check)


def _speed(progress: Progress) -> str:
    return f"loss {progress.loss:.3f}, {progress.tokens / max(1e-9, progress.seconds):,.0f} tokens/s"

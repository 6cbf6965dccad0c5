"""Ctrl-C and SIGTERM while a study runs: both stop it, at once or at the next step."""

import signal
import threading
from types import FrameType
from typing import Any, Self


class Stopped(KeyboardInterrupt):
    """A study was interrupted; its text says what is kept.

    Attributes:
        exit_code: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Interrupts:
    """While entered, SIGINT and SIGTERM raise `KeyboardInterrupt`; `check` raises it again if it was lost.

    Python drops an exception that a handler raises inside a finaliser or a C callback; `check` is called at
    every step. The previous handlers are restored on leaving, and ignored signals (under nohup) stay ignored.
    Outside the main thread, where Python allows no handlers, nothing changes.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process ended by the signal that came."""
        return 128 + (signal.SIGINT if self.number is None else self.number)

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if a signal came before."""
        if self.number is not None:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        raise KeyboardInterrupt

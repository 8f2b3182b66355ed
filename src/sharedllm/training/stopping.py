"""Ctrl-C and SIGTERM while a run trains: the first waits for the end of the step, so that a checkpoint can be saved."""

import signal
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn, Self

from accelerate.utils import gather_object

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds in which further signals count as the first one: what launches several processes passes on to them a signal that
# they got from the terminal already.
GRACE = 1.0


class Stopping:
    """Holds back the first signal of a run; a second one stops at once. Signals that are ignored stay so, and in other threads
    than the main one nothing is held back.

    signal  the number of the signal that came; 0 before
    """

    def __init__(self, say: Callable[[str], None], processes: int = 1):
        """
        Args:
            say: tells the user. processes: how many train together.
        """
        self.signal, self._say, self._since = 0, say, 0.0
        self._grace = GRACE if processes > 1 else 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._came)
        return self

    def __exit__(self, *_: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _came(self, number: int, frame: Any) -> None:
        if not self.signal:
            self.signal, self._since = number, time.monotonic()
            self._say("stopping after this step, with a checkpoint; the same once more stops at once")
        elif time.monotonic() - self._since >= self._grace:
            self.leave(number)

    def agreed(self) -> int:
        """The signal that came to any of the processes, 0 if none did. Called by all of them, which then stop after the same
        step."""
        return max(gather_object([self.signal]))

    def leave(self, number: int) -> NoReturn:
        """End as the signal would have ended the program, with exit code 128 + number.

        Raises:
            KeyboardInterrupt: it is SIGINT. SystemExit: it is another one.
        """
        self.__exit__()
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

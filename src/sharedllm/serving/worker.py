"""The one thread that owns the model, and its queue of jobs."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any

from ..utils.errors import UserError
from .errors import ServingError, invalid

# Seconds after which a client may try again when the queue is full.
RETRY = 5


class Cancelled(Exception):
    """The client no longer waits for this job."""


class Job:
    """Work for the worker's thread, created in the event loop that waits for it.

    `events` yields what the work emits, and finally what it returns.
    """

    def __init__(self, work: Callable[["Job"], Any], seconds: float, *, changes: bool = False):
        """
        Args:
            work: called in the worker's thread; calls `check` often, and `emit`.
            seconds: time limit from now on, including waiting.
            changes: it changes a memory.
        """
        self.work, self.seconds, self.changes = work, seconds, changes
        self.begun = time.monotonic()
        self._loop, self._events = asyncio.get_running_loop(), asyncio.Queue()
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def age(self) -> float:
        """Seconds since its creation."""
        return time.monotonic() - self.begun

    def cancel(self) -> None:
        """Stop the work at its next `check`."""
        self._cancelled.set()

    def check(self, _: int = 0) -> None:
        """
        Raises:
            Cancelled: the client no longer waits. ServingError: the time is up.
        """
        if self.cancelled:
            raise Cancelled
        if self.age > self.seconds:
            raise self._late()

    def emit(self, event: Any) -> None:
        self._put(event, None)

    def run(self) -> Callable[[], None]:
        """Do the work; returns a function that delivers its result or error as the last event."""
        try:
            self.check()
            result = self.work(self)
        except UserError as error:
            return partial(self.fail, invalid(None, str(error)))
        except Exception as error:
            return partial(self.fail, error)
        return lambda: self._put(result, StopAsyncIteration())

    def fail(self, error: Exception) -> None:
        """End with an error instead of the work."""
        self._put(None, error)

    async def events(self) -> AsyncGenerator[Any, None]:
        """Yield the events of the work. Leaving early cancels it.

        Raises:
            ServingError: the time is up. Also whatever the work raised.
        """
        try:
            while True:
                async with asyncio.timeout(max(self.seconds - self.age, 0)):
                    event, end = await self._events.get()
                if end is not None and not isinstance(end, StopAsyncIteration):
                    raise end
                yield event
                if end is not None:
                    return
        except TimeoutError:
            raise self._late() from None
        finally:
            self.cancel()

    def _put(self, event: Any, end: Exception | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, (event, end))
        except RuntimeError:  # the loop is closed: no client waits any more
            self.cancel()

    def _late(self) -> ServingError:
        return ServingError(
            504, f"the request took longer than {self.seconds:g} s: ask for less, or raise the server's --timeout."
        )


class Worker:
    """Runs jobs one after the other, in order of arrival. Only a job that reads a long text lets questions pass (see `between`)."""

    def __init__(self, most_waiting: int):
        """most_waiting: how many jobs may wait besides the running one."""
        self.most_waiting = most_waiting
        self._jobs: deque[Job] = deque()
        self._running: Job | None = None
        self._between: Job | None = None
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="sharedllm-worker", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._stopping

    @property
    def running(self) -> int:
        return int(self._running is not None) + int(self._between is not None)

    @property
    def waiting(self) -> int:
        """Number of waiting jobs that are not cancelled."""
        with self._changed:
            return sum(not job.cancelled for job in self._jobs)

    def submit(self, job: Job) -> None:
        """
        Raises:
            ServingError: too many jobs are waiting, or the worker is dead.
        """
        with self._changed:
            if not self.alive:
                raise ServingError(503, "the model's thread has ended: restart the server.")
            # One more than may wait: the running job, or the one about to run.
            if self.waiting + self.running > self.most_waiting:
                raise ServingError(
                    429, f"{self.most_waiting} requests are waiting already: try again in {RETRY} s.", retry=RETRY
                )
            self._jobs.append(job)
            self._changed.notify()

    def stop(self) -> None:
        """End the running and waiting jobs, and wait for the thread."""
        with self._changed:
            self._stopping = True
            for job in (self._running, self._between):
                if job is not None:
                    job.cancel()
            self._changed.notify()
        self._thread.join()

    def between(self) -> None:
        """Answer the questions that wait now: called by a job that reads a long text, in the worker's thread and between
        two steps, so that nobody waits until all of it is read."""
        for _ in range(self.waiting):
            if (job := self._next_question()) is None:
                return
            finish = job.run()
            with self._changed:
                self._between = None
            finish()

    def _loop(self) -> None:
        try:
            while (job := self._next()) is not None:
                finish = job.run()
                # A client that has its answer may ask again at once and must find the worker free.
                with self._changed:
                    self._running = None
                finish()
        finally:
            # Jobs that are still queued must not wait for ever.
            with self._changed:
                self._stopping = True
                left = [job for job in (self._running, self._between, *self._jobs) if job is not None]
                self._jobs.clear()
                self._running = self._between = None
            for job in left:
                job.fail(Cancelled())

    def _next_question(self) -> Job | None:
        """The first waiting job that changes nothing, if there is one."""
        with self._changed:
            if self._between is not None or self._stopping:
                return None
            self._between = next((job for job in self._jobs if not job.changes), None)
            if self._between is not None:
                self._jobs.remove(self._between)
            return self._between

    def _next(self) -> Job | None:
        """Wait for a job; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._stopping)
            if not self._stopping:
                self._running = self._jobs.popleft()
            return self._running

"""The one thread that owns the model: it takes jobs from a queue, and continues the answers of all that it has begun as one
batch."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from functools import partial
from typing import Any

from ..decoding import ROWS, Batch
from ..rows import Row
from ..utils.errors import UserError
from .errors import ServingError, invalid, late

# Seconds after which a client may try again when the queue is full.
RETRY = 5
# Between two steps of reading a long text, questions are answered for at most so many times as long as the step took.
SHARE = 3


class Cancelled(Exception):
    """The client no longer waits for this job."""


class Job:
    """Work for the worker's thread, created in the event loop that waits for it.

    `events` yields what the work emits, and finally what it returns. Work that is a generator yields rows once; it goes on
    when they have ended.
    """

    def __init__(self, work: Callable[["Job"], Any], seconds: float, *, changes: bool = False):
        """
        Args:
            work: called in the worker's thread; calls `check` often, and `emit`. May return a generator (see above).
            seconds: time limit from now on, including waiting.
            changes: it changes a memory.
        """
        self.work, self.seconds, self.changes = work, seconds, changes
        self.begun = time.monotonic()
        self._rest: Generator[Sequence[Row], None, Any] | None = None
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
            raise late(self.seconds)

    def emit(self, event: Any) -> None:
        self._put(event, None)

    def begin(self) -> Sequence[Row] | Callable[[], None]:
        """Begin the work; returns rows that are to be continued, or what `finish` does."""
        try:
            self.check()
            result = self.work(self)
            if not isinstance(result, Generator):
                return partial(self._put, result, StopAsyncIteration())
            self._rest = result
            return next(self._rest)
        except Exception as error:
            return partial(self.fail, self._told(error))

    def finish(self, error: Exception | None = None) -> Callable[[], None]:
        """Do the rest of the work, after its rows have ended or one has failed with an error; returns a function that
        delivers the result, or the error, as the last event."""
        assert self._rest is not None
        try:
            if error is not None:
                self._rest.throw(error)
            else:
                next(self._rest)
        except StopIteration as end:
            return partial(self._put, end.value, StopAsyncIteration())
        except Exception as raised:
            return partial(self.fail, self._told(raised))
        raise AssertionError("the work yields once")

    @staticmethod
    def _told(error: Exception) -> Exception:
        # The budget is the one field that only the text can tell to be wrong: it may be less than one part.
        field = "budget" if str(error).startswith("budget=") else None
        return invalid(field, str(error)) if isinstance(error, UserError) else error

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
            raise late(self.seconds) from None
        finally:
            self.cancel()

    def _put(self, event: Any, end: Exception | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, (event, end))
        except RuntimeError:  # the loop is closed: no client waits any more
            self.cancel()


class Worker:
    """Begins jobs one after the other, in order of arrival, and continues the rows of all as one batch: between two jobs each
    row gets a token. A job that reads a long text lets questions pass (see `between`)."""

    def __init__(self, most_waiting: int, rows: int = ROWS):
        """
        Args:
            most_waiting: how many jobs may wait. rows: how many answers are written at once.
        """
        self.most_waiting = most_waiting
        self._batch = Batch(rows)
        self._jobs: deque[Job] = deque()
        # Jobs in the middle of their work; of those that have rows, the rows that have not ended.
        self._running: list[Job] = []
        self._rows: dict[Job, list[Row]] = {}
        # When the running job last let others pass; how many jobs have begun inside others.
        self._passed, self._depth = 0.0, 0
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="sharedllm-worker", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._stopping

    @property
    def running(self) -> int:
        return len(self._running)

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
            # Jobs that are about to begin do not wait.
            if self.waiting + self.running >= self.most_waiting + self._batch.most:
                raise ServingError(
                    429, f"{self.most_waiting} requests are waiting already: try again in {RETRY} s.", retry=RETRY
                )
            self._jobs.append(job)
            self._changed.notify()

    def stop(self) -> None:
        """End the running and waiting jobs, and wait for the thread."""
        with self._changed:
            self._stopping = True
            for job in self._running:
                job.cancel()
            self._changed.notify()
        self._thread.join()

    def between(self) -> None:
        """Go on with the answers to other questions, and begin those that wait: called by a job that reads a long text, in
        the worker's thread and between two steps, so that nobody waits until all of it is read."""
        now = time.monotonic()
        end = now + SHARE * (now - self._passed)
        while self._turn(questions=True) and time.monotonic() < end and not self._stopping:
            pass
        self._passed = time.monotonic()

    def _loop(self) -> None:
        try:
            while self._wait():
                self._turn()
        finally:
            # Jobs that are still queued must not wait for ever.
            with self._changed:
                self._stopping = True
                left = [*self._running, *self._jobs]
                self._jobs.clear()
                self._running.clear()
            for job in left:
                job.fail(Cancelled())

    def _wait(self) -> bool:
        """Wait for something to do; False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._rows or self._stopping)
            return not self._stopping

    def _turn(self, questions: bool = False) -> bool:
        """Begin a job, if there is one and room for its answer, and continue every row by one token.

        questions: begin only a job that changes nothing. Returns whether there was anything to do.
        """
        job = self._next(questions)
        if job is not None:
            self._begin(job)
        busy = bool(self._rows)
        if busy:
            self._ended(self._batch.step())
            self._fill()
        return busy or job is not None

    def _next(self, questions: bool) -> Job | None:
        """The next waiting job; inside another job only the first one that is a question, and inside that none."""
        with self._changed:
            if self._stopping or not self._batch.room or self._depth > 1:
                return None
            job = next((job for job in self._jobs if not (questions and job.changes)), None)
            if job is not None:
                self._jobs.remove(job)
                self._running.append(job)
            return job

    def _begin(self, job: Job) -> None:
        before, self._passed = self._passed, time.monotonic()
        self._depth += 1
        try:
            begun = job.begin()
        finally:
            self._depth -= 1
            self._passed = before
        if callable(begun):
            self._deliver(job, begun)
        else:
            self._rows[job] = list(begun)
            self._fill()

    def _fill(self) -> None:
        """Let rows join that are not in the batch yet, in order of their jobs."""
        inside = set(self._batch.rows)
        for row in [row for rows in self._rows.values() for row in rows if row not in inside]:
            if not self._batch.room:
                return
            self._batch.add(row)
            if row.ended:
                self._ended([row])

    def _ended(self, ended: Sequence[Row]) -> None:
        """Finish the jobs of which all rows have ended, or one has failed."""
        for row in ended:
            job = next((job for job, rows in self._rows.items() if row in rows), None)
            if job is None:
                continue
            self._rows[job].remove(row)
            if row.error is not None or not self._rows[job]:
                self._batch.remove(self._rows.pop(job))
                self._deliver(job, job.finish(row.error))

    def _deliver(self, job: Job, finish: Callable[[], None]) -> None:
        # A client that has its answer may ask again at once and must find the worker free.
        with self._changed:
            self._running.remove(job)
        finish()

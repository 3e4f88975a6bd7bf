# SPDX-License-Identifier: Apache-2.0
"""Worker processes that outlive what they read: a file that crashes or hangs a decoder costs one answer, no more."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any, Generic, TypeVar

__all__ = ["process_count", "work_through"]

Task = TypeVar("Task")
Result = TypeVar("Result")

CHUNK = 16  # tasks sent at once; answers come back one by one
INLINE_SECONDS = 0.6  # starting workers costs about this much: shorter work is done here


def work_through(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    lost: Callable[[Task, str], Result],
    workers: int | None = None,
    limit_s: float = 60.0,
) -> Iterator[tuple[int, Result]]:
    """Apply a function to every task, in processes where that pays.

    Args:
        function: What to do; a module-level function that raises nothing.
        tasks: Its arguments; small and picklable.
        lost: Makes the answer for a task that killed its worker or took too long, from the task and the reason.
        workers: Processes; 0 or 1 works in this process, as many as there are processors if empty.
        limit_s: Seconds that one task may take in a worker.

    Yields:
        Index and answer of each task, once each, in no particular order.
    """
    count = process_count() if workers is None else workers
    done, start = 0, time.monotonic()
    while done < len(tasks):
        spent = time.monotonic() - start
        left = spent / max(done, 1) * (len(tasks) - done)
        if count > 1 and spent > INLINE_SECONDS / 4 and left > 2 * INLINE_SECONDS:
            break
        yield done, function(tasks[done])
        done += 1
    if done < len(tasks):
        yield from _Crew(function, tasks, lost, limit_s).run(done, min(count, len(tasks) - done))


def process_count() -> int:
    """Give the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Worker:
    """One process and the tasks it has not answered yet."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")  # forking a process that holds torch's threads may hang
        self.pipe, far = context.Pipe()
        self.process = context.Process(target=_serve, args=(far, function), daemon=True)
        with _without_main():
            self.process.start()
        far.close()
        self.open: deque[int] = deque()
        self.since = time.monotonic()
        self.ready = False

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep a new process from running the user's script again: workers need none of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class _Crew(Generic[Task, Result]):
    """Deals tasks out, takes answers in, and replaces workers that died or hang."""

    def __init__(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        lost: Callable[[Task, str], Result],
        limit_s: float,
    ) -> None:
        self.function, self.tasks, self.lost, self.limit_s = function, tasks, lost, limit_s
        self.waiting: deque[int] = deque()

    def run(self, first: int, count: int) -> Iterator[tuple[int, Result]]:
        self.waiting.extend(range(first, len(self.tasks)))
        workers = [_Worker(self.function) for _ in range(count)]
        try:
            while self.waiting or any(worker.open for worker in workers):
                for worker in workers:
                    self._deal(worker)
                ready = wait([worker.pipe for worker in workers if worker.open], timeout=1.0)
                for place, worker in enumerate(workers):
                    if worker.pipe in ready:
                        answers = _answers(worker)
                        yield from answers
                        gone = not answers and not worker.process.is_alive()
                        if gone and not worker.ready:  # no process can be started here
                            yield from self._alone(workers)
                            return
                        if gone and worker.open:
                            yield self._bury(worker, "reading it crashed the decoder")
                            workers[place] = _Worker(self.function)
                    elif worker.open and worker.ready and time.monotonic() - worker.since > self.limit_s:
                        yield self._bury(worker, f"reading it took more than {self.limit_s:g} seconds")
                        workers[place] = _Worker(self.function)
        finally:
            for worker in workers:
                worker.stop()

    def _alone(self, workers: Sequence[_Worker]) -> Iterator[tuple[int, Result]]:
        """Do in this process what is left."""
        for index in [index for worker in workers for index in worker.open] + list(self.waiting):
            yield index, self.function(self.tasks[index])

    def _deal(self, worker: _Worker) -> None:
        share = max(1, min(CHUNK, len(self.waiting) // 4))
        if len(worker.open) > share // 2 or not self.waiting:
            return
        batch = [self.waiting.popleft() for _ in range(min(share, len(self.waiting)))]
        if not worker.open:
            worker.since = time.monotonic()
        worker.open.extend(batch)
        try:
            worker.pipe.send([(index, self.tasks[index]) for index in batch])
        except OSError:
            return  # it has just died; the next look at its pipe finds that out

    def _bury(self, worker: _Worker, reason: str) -> tuple[int, Result]:
        """Answer the task that was at work, and put those behind it back into the queue."""
        index = worker.open.popleft()
        self.waiting.extendleft(reversed(worker.open))
        worker.stop()
        return index, self.lost(self.tasks[index], reason)


def _answers(worker: _Worker) -> list[tuple[int, Any]]:
    """Take in what a worker has answered so far."""
    answers = []
    try:
        while worker.pipe.poll():
            index, answer = worker.pipe.recv()
            worker.ready, worker.since = True, time.monotonic()
            if index < 0:
                continue  # the greeting
            worker.open.remove(index)
            answers.append((index, answer))
    except (EOFError, OSError):
        worker.process.join(timeout=5)
    return answers


def _serve(pipe: Connection, function: Callable[[Any], Any]) -> None:
    """Answer tasks until the other end closes."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends its workers
    try:
        pipe.send((-1, None))
        while True:
            for index, task in pipe.recv():
                pipe.send((index, function(task)))
    except (EOFError, OSError):
        return

# SPDX-License-Identifier: Apache-2.0
"""What a person sees while training, on stderr: a bar on a terminal, one line per epoch anywhere else."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = ["BarProgress", "LineProgress", "Progress", "SilentProgress", "create_progress"]


class Progress(Protocol):
    """Where training tells how it goes."""

    def message(self, text: str) -> None:
        """Say one line."""
        ...

    def start(self, title: str, total: int, done: int, images_per_step: int) -> None:
        """Begin a stage of ``total`` steps, ``done`` of them already."""
        ...

    def step(self, *, epoch: str, loss: float | None, learning_rate: float) -> None:
        """Count one step."""
        ...

    def work(self, what: str, done: int, total: int) -> None:
        """Count a piece of work beside the steps: reading, validation."""
        ...

    def close(self) -> None:
        """End the display."""
        ...


class SilentProgress:
    """Says nothing."""

    def message(self, text: str) -> None:
        """Drop the line."""

    def start(self, title: str, total: int, done: int, images_per_step: int) -> None:
        """Do nothing."""

    def step(self, *, epoch: str, loss: float | None, learning_rate: float) -> None:
        """Do nothing."""

    def work(self, what: str, done: int, total: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class LineProgress(SilentProgress):
    """Says the lines only, for logs and pipes; where an epoch takes long, one line a minute."""

    def __init__(self, *, every: float = 60.0) -> None:
        """Start the clock.

        Args:
            every: Seconds between two lines about steps.
        """
        self._every = every
        self._title = ""
        self._total = self._done = self._since = self._images_per_step = 0
        self._said = self._began = time.monotonic()

    def message(self, text: str) -> None:
        """Write the line to stderr."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is the display
        self._said = time.monotonic()

    def start(self, title: str, total: int, done: int, images_per_step: int) -> None:
        """Remember what the lines are about.

        Args:
            title: What runs.
            total: Steps of the stage.
            done: Steps done before.
            images_per_step: For images per second.
        """
        self._title, self._total, self._done, self._images_per_step = title, total, done, images_per_step
        self._since, self._began = 0, time.monotonic()

    def step(self, *, epoch: str, loss: float | None, learning_rate: float) -> None:
        """Count one step, and say so where nothing was said for long.

        Args:
            epoch: ``3/40``.
            loss: The newest known.
            learning_rate: The largest of the groups.
        """
        self._done += 1
        self._since += 1
        now = time.monotonic()
        if now - self._said < self._every:
            return
        speed = self._since / max(now - self._began, 1e-9)
        said = "" if loss is None else f"loss {loss:.4f}  "
        minutes = math.ceil((self._total - self._done) / speed / 60)
        self.message(
            f"{self._title} {epoch}: step {self._done}/{self._total}  {said}lr {learning_rate:.2e}  "
            f"{speed * self._images_per_step:.1f} images/s  about {minutes} min left"
        )


class BarProgress:
    """A bar with ETA, loss, learning rate and images per second."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._progress: RichProgress | None = None
        self._task: TaskID | None = None
        self._work: dict[str, TaskID] = {}
        self._images_per_step = 0
        self._steps = 0
        self._began = 0.0

    def message(self, text: str) -> None:
        """Write the line above the bar."""
        self._console.print(text, markup=False, soft_wrap=True)

    def start(self, title: str, total: int, done: int, images_per_step: int) -> None:
        """Show the bar.

        Args:
            title: What runs.
            total: Steps of the stage.
            done: Steps done before.
            images_per_step: For images per second.
        """
        self.close()
        self._task = self._display().add_task(title, total=total, completed=done, facts="")
        self._images_per_step = images_per_step
        self._steps, self._began = 0, time.monotonic()

    def step(self, *, epoch: str, loss: float | None, learning_rate: float) -> None:
        """Move the bar by one.

        Args:
            epoch: ``3/40``.
            loss: The newest known.
            learning_rate: The largest of the groups.
        """
        if self._progress is None or self._task is None:
            return
        if self._work:
            for task in self._work.values():
                self._progress.remove_task(task)
            self._work.clear()
            self._steps, self._began = 0, time.monotonic()  # validation is not training speed
        self._steps += 1
        speed = self._steps * self._images_per_step / max(time.monotonic() - self._began, 1e-9)
        said = "" if loss is None else f"loss {loss:.4f}  "
        facts = f"epoch {epoch}  {said}lr {learning_rate:.2e}  {speed:.1f} images/s"
        self._progress.update(self._task, advance=1, facts=facts)

    def work(self, what: str, done: int, total: int) -> None:
        """Show a second bar until the next step, or a bar of its own before the first.

        Args:
            what: What is being done.
            done: How many are done.
            total: All of them.
        """
        display = self._display()
        if what not in self._work:
            self._work[what] = display.add_task(what, total=total, facts="")
        display.update(self._work[what], completed=done, total=total)

    def close(self) -> None:
        """Take the bar away and give the terminal its cursor back."""
        progress, self._progress = self._progress, None
        self._task = None
        self._work.clear()
        if progress is not None:
            progress.stop()

    def _display(self) -> RichProgress:
        if self._progress is None:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._progress = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[facts]}"),
                console=self._console,
                refresh_per_second=4,
                transient=True,
                speed_estimate_period=120,
            )
            self._progress.start()
        return self._progress


def create_progress(enabled: bool = True) -> Progress:
    """Choose the display that fits stderr.

    Args:
        enabled: Whether anything is to be said.

    Returns:
        A bar on a terminal, lines elsewhere, silence where not enabled.
    """
    if not enabled:
        return SilentProgress()
    return BarProgress() if sys.stderr is not None and sys.stderr.isatty() else LineProgress()

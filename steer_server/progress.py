"""Progress of long work on stderr: a bar with rate and ETA in a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts finished units of one piece of work.

    Args:
        what: the work, such as `confucian`.
        total: number of units.
        unit: what is counted, in the plural.
        done: units that an earlier run finished; they do not count for the rate.
    """

    def __init__(self, what: str, total: int, unit: str = "steps", done: int = 0) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = self._done_before = done
        self._started = time.monotonic()
        self._last_line = self._started
        console = Console(stderr=True)
        self._bar: RichProgress | None = None
        if console.is_terminal:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            )
            self._task = self._bar.add_task(what, total=total, completed=done, rate="", note="")

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def rate(self) -> float:
        """Units per second in this run."""
        elapsed = time.monotonic() - self._started
        return (self.done - self._done_before) / elapsed if elapsed > 0 else 0.0

    def advance(self, count: int = 1, note: str = "") -> None:
        """Counts `count` units as finished; `note` is shown behind them, such as a loss."""
        self.done += count
        if self._bar:
            rate = f"{self.rate:.2f} {self.unit}/s"
            self._bar.update(self._task, completed=self.done, rate=rate, note=note)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES or self.done >= self.total:
            self._last_line = now
            left = (self.total - self.done) / self.rate if self.rate else 0.0
            line = f"{self.what}: {self.done}/{self.total} {self.unit} {self.rate:.2f}/s ETA {left:.0f} s"
            print(f"{line} {note}".rstrip(), file=sys.stderr, flush=True)

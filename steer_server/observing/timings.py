"""The stages of a request: each is named once, for the response's `timings_ms`, the log and the trace."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from steer_server.observing.spans import Span, span

STAGES = ("plan", "queue", "rewrite", "denoising", "scoring")


@dataclass
class Timings:
    """Wall time of each stage."""

    started: float
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @contextmanager
    def stage(self, name: str) -> Iterator[Span]:
        """Measures the block, which is given as the span that it is in a trace. Args: name: of STAGES."""
        started = time.perf_counter()
        try:
            with span(name) as made:
                yield made
        finally:
            self.seconds[name] = time.perf_counter() - started

    def milliseconds(self) -> dict[str, float]:
        """`total` includes `plan`, `queue` (the wait for bank slots), `rewrite` and `denoising` (with a wait
        for slots of their own) and `scoring`."""
        total = time.perf_counter() - self.started
        return {name: round(value * 1000, 3) for name, value in {**self.seconds, "total": total}.items()}

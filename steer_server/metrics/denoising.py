"""What becomes of diffpo's drafts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from steer_server.frozen.outcome import Outcome, Report


class DenoisingMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.answers = Counter(
            "steer_denoising_answers_total",
            "Answers of diffpo, by what became of the draft.",
            ["outcome"],
            registry=registry,
        )
        self.loops = Histogram(
            "steer_denoising_loops",
            "Loops of one answer.",
            buckets=(0, 1, 2, 3, 4, 6, 8, 12),
            registry=registry,
        )
        self.changed_share = Histogram(
            "steer_denoising_changed_ratio",
            "Share of the draft's tokens that were changed, of answers that were.",
            buckets=[step / 10 for step in range(1, 11)],
            registry=registry,
        )

    def note(self, report: Report) -> None:
        """Counts one answer."""
        self.answers.labels(report.outcome).inc()
        self.loops.observe(report.num_loops)
        if report.outcome is Outcome.IMPROVED:
            self.changed_share.observe(report.changed_share)

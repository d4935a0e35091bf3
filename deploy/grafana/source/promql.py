"""PromQL of the panels, written once: every selector keeps to the chosen jobs and instances."""

from __future__ import annotations

SCOPE = 'job=~"$job",instance=~"$instance"'


def metric(name: str, *matchers: str) -> str:
    """A selector. Args: matchers: such as `status=~"5.."`."""
    return f"{name}{{{','.join((SCOPE, *matchers))}}}"


def rate(name: str, *matchers: str) -> str:
    """Increase a second, of counters and of histograms' parts."""
    return f"rate({metric(name, *matchers)}[$__rate_interval])"


def total(expr: str, *by: str) -> str:
    return f"sum{_by(by)} ({expr})"


def quantile(q: float, histogram: str, *by: str, matchers: tuple[str, ...] = ()) -> str:
    """The q-quantile of a histogram, for each of `by`."""
    return f"histogram_quantile({q}, {total(rate(f'{histogram}_bucket', *matchers), 'le', *by)})"


def mean(name: str, *by: str, matchers: tuple[str, ...] = ()) -> str:
    """Of what a histogram or summary counted, for each of `by`; no data where nothing was."""
    return ratio(total(rate(f"{name}_sum", *matchers), *by), total(rate(f"{name}_count", *matchers), *by))


def ratio(part: str, whole: str) -> str:
    return f"{part} / ({whole} > 0)"


def by_culture(expr: str) -> str:
    """Sums per culture of something that has `adapter`; adapters without a culture are left out."""
    info = metric("steer_adapter_info", 'culture!=""')
    return f"sum by (culture) ({expr} * on (job, instance, adapter) group_left (culture) {info})"


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""

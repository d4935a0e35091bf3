"""Resident memory of a server's processes, when it runs on this machine, and what it says is in use."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

MIB = 2**20
SAMPLE_SECONDS = 1.0
FLAT_MIB = 16.0
FLAT_SHARE = 0.01
"""Memory counts as flat when its second half grows by less than both together: allocators keep a few pages
for every pool, and a single sample moves by megabytes while requests are under way."""
IN_USE = ("slot", "lease", "running", "waiting", "active")
"""Words in the names of gauges that say what is in use."""


def find_processes(url: str) -> list[psutil.Process]:
    """The process that listens at the URL's port, and its descendants; empty when the server is elsewhere or
    its processes cannot be seen."""
    parsed = httpx.URL(url)
    port = parsed.port or {"http": 80, "https": 443}.get(parsed.scheme)
    try:
        if not ipaddress.ip_address(socket.gethostbyname(parsed.host)).is_loopback:
            return []
        listening = {
            one.pid
            for one in psutil.net_connections(kind="tcp")
            if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port and one.pid
        }
        processes = [psutil.Process(pid) for pid in listening]
        # A child may have inherited the socket.
        parents = [p for p in processes if not {q.pid for q in p.parents()} & listening]
        return [one for parent in parents[:1] for one in (parent, *parent.children(recursive=True))]
    except (psutil.Error, OSError):
        return []


def rss_bytes(processes: Sequence[psutil.Process]) -> dict[str, int]:
    """RSS by process title and pid; what has ended is missing."""
    return _of_each(processes, lambda process: process.memory_info().rss)


def num_handles(processes: Sequence[psutil.Process]) -> dict[str, int]:
    """The same of open files, sockets and pipes together."""
    return _of_each(processes, lambda process: process.num_fds())


def _of_each(processes: Sequence[psutil.Process], read: Callable[[psutil.Process], int]) -> dict[str, int]:
    found = {}
    for process in processes:
        with suppress(psutil.Error):
            command = process.cmdline()
            title = command[0].rpartition("/")[2].strip() if command else process.name()
            found[f"{title} {process.pid}"] = read(process)
    return found


async def numbers_in_use(http: httpx.AsyncClient) -> dict[str, float]:
    """Numbers with which the server says what is in use: of the bank in `/ready`, and gauges of `/metrics`.
    Empty for what it does not say."""
    found: dict[str, float] = {}
    with suppress(httpx.HTTPError, ValueError):
        bank = (await http.get("/ready")).raise_for_status().json().get("bank", {})
        found |= {f"bank.{key}": float(value) for key, value in bank.items() if isinstance(value, int)}
    with suppress(httpx.HTTPError, ValueError):
        gauges = set()
        for line in (await http.get("/metrics")).raise_for_status().text.splitlines():
            if line.startswith("# TYPE steer_") and line.endswith(" gauge"):
                name = line.split()[2]
                is_in_use = any(word in name for word in IN_USE) and not name.endswith("_created")
                gauges |= {name} if is_in_use else set()
            elif line.split("{")[0].split(" ")[0] in gauges:
                key, _, value = line.rpartition(" ")
                found[key] = float(value)
    return found


@dataclass
class MemorySampler:
    """Samples every second until stopped. Use `start` and `stop`.

    Args:
        progress: how far the work has come, beside every sample: acts or cycles.
    """

    processes: Sequence[psutil.Process]
    progress: Callable[[], int]
    samples: list[tuple[float, int, dict[str, int]]] = field(default_factory=list)
    """(monotonic seconds, progress, RSS in bytes by process)"""
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self.processes:
            self._task = asyncio.create_task(self._sample())

    async def stop(self) -> None:
        """Takes a last sample. May be called more than once."""
        task, self._task = self._task, None
        if task is not None:
            self.take()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def take(self) -> None:
        self.samples.append((time.monotonic(), self.progress(), rss_bytes(self.processes)))

    async def _sample(self) -> None:
        while True:
            self.take()
            await asyncio.sleep(SAMPLE_SECONDS)

    def describe(self) -> dict[str, Any] | None:
        """By process and for all together: MiB before, after, growth of the second half, and slope per 100
        acts. None when nothing could be sampled."""
        if not self.samples:
            return None
        progress = [done for _, done, _ in self.samples]
        keys = sorted(set.intersection(*(set(rss) for _, _, rss in self.samples)))
        series = {key: [rss[key] / MIB for _, _, rss in self.samples] for key in keys}
        total = [sum(values) for values in zip(*series.values(), strict=True)]
        return {
            "processes": {key: trend(values, progress) for key, values in series.items()},
            "total": trend(total, progress),
            "series": {
                "seconds": [round(at - self.samples[0][0], 1) for at, _, _ in self.samples],
                "mib": {key: [round(value, 1) for value in values] for key, values in series.items()},
            },
        }


def trend(values_mib: Sequence[float], progress: Sequence[int]) -> dict[str, float]:
    """Medians of tenths of a series, so that one sample decides nothing; the slope is of least squares over
    the second half, when pools and caches are filled."""
    tenth = max(1, len(values_mib) // 10)
    half = len(values_mib) // 2
    middle = statistics.median(values_mib[half : half + tenth])
    after = statistics.median(values_mib[-tenth:])
    late, done = values_mib[half:], progress[half:]
    slope = statistics.linear_regression(done, late).slope if len(set(done)) > 1 else 0.0
    return {
        "before_mib": round(statistics.median(values_mib[:tenth]), 1),
        "after_mib": round(after, 1),
        "second_half_growth_mib": round(after - middle, 2),
        "slope_mib_per_100": round(100 * slope, 3),
    }


def is_flat(described: Mapping[str, float]) -> bool:
    """Of what `trend` says."""
    allowed = FLAT_MIB + FLAT_SHARE * described["before_mib"]
    return described["second_half_growth_mib"] <= allowed

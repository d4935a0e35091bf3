"""A real S3 server in a process of its own, for the tests of the file store."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import httpx

from tests.support.ports import free_port

START_SECONDS = 60


@dataclass
class S3Server:
    endpoint: str
    _counter: Iterator[int] = field(default_factory=itertools.count)

    def new_bucket(self) -> str:
        """Makes an empty bucket. Returns: its name."""
        name = f"bucket-{next(self._counter)}"
        # The first request has moto import what it answers with.
        httpx.put(f"{self.endpoint}/{name}", timeout=START_SECONDS).raise_for_status()
        return name


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """moto's S3 on a free port; takes any credentials and forgets everything when it ends."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = S3Server(f"http://127.0.0.1:{port}")
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with suppress(httpx.TransportError):
                httpx.get(server.endpoint)
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"moto's server did not start: {' '.join(command)}")
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait()

"""Ports for servers that are started later, or that nobody listens on."""

from __future__ import annotations

import random
import socket

import pytest


def free_port() -> int:
    """A loopback port that no outgoing connection is given, and no server that takes any port, while nobody
    listens on it: below the range that Linux draws from."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    pytest.fail("no free port")

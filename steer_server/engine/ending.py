"""How the server ends: drained when it is told to, and with an error when its engine has died.

vLLM 0.32 stops its engine first and HTTP after it. What comes meanwhile gets an empty answer, or an error,
and so does the next step of a request under way: its scores, another loop of diffpo. And a server whose
engine has died ends with exit code 0, as if it had been told to.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

logger = logging.getLogger("steer_server.engine")

HTTP_END_SECONDS = 10
"""For what is still connected when the engine has ended, before it is cut. vLLM waits without an end, for
requests that nothing answers any more."""

Drain = Callable[[float], Coroutine[Any, Any, None]]


class EngineEnd:
    """What becomes of one engine client."""

    def __init__(self) -> None:
        self.has_died = False
        """Whether the engine had ended before it was told to; known when the server ends."""
        self._has_begun = False

    def watch(self, client: Any, drain: Drain) -> None:
        """From now on `client.shutdown`, which vLLM calls when a signal tells it to stop, waits for `drain`
        first. Must be called on the server's event loop.

        Args:
            client: vLLM's, whose `shutdown` is replaced.
            drain: is given the seconds that requests under way may take. What it raises is logged: the
                server ends all the same.
        """
        loop, home = asyncio.get_running_loop(), threading.get_ident()
        stop = client.shutdown

        def shutdown(timeout: float | None = None) -> None:
            if self._has_begun:
                stop(timeout=timeout)
                return
            self._has_begun = True
            self.has_died = bool(client.errored)
            # vLLM stops from another thread; on the loop's own HTTP has ended already.
            if self.has_died or timeout is None or threading.get_ident() == home:
                stop(timeout=timeout)
                return
            started = time.monotonic()
            try:
                asyncio.run_coroutine_threadsafe(drain(timeout), loop).result()
            except Exception:
                logger.exception("the server could not be drained")
            # The engine drains too, for whoever is left; both have the same time.
            stop(timeout=max(0.0, timeout - (time.monotonic() - started)))

        client.shutdown = shutdown

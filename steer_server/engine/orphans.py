"""Ends a process of vLLM's when the one that started it is gone, however that ended.

In vLLM 0.32 only the workers notice. The engine's process outlives a server that was killed, and keeps its
memory while a supervisor starts the next server beside it (vLLM #55510).
"""

from __future__ import annotations

import functools
import os
import threading
from multiprocessing import parent_process


@functools.cache
def end_with_parent() -> None:
    """From now on this process ends at once when its parent does. Does nothing in a process that
    multiprocessing did not start, such as the server's own."""
    if parent_process() is not None:
        threading.Thread(target=_end_after_parent, name="end-with-parent", daemon=True).start()


def _end_after_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    # Not an orderly end: the main thread may be in a step, or wait for what nobody will send.
    os._exit(1)

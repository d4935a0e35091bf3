"""How log lines look: JSON for programs, plain text in a terminal; each with the ids of its request.

JSON lines have the keys that vLLM's have, the time in UTC, and what a line knows beside its message.
"""

from __future__ import annotations

import json
import logging
from typing import TextIO

from pythonjsonlogger.core import RESERVED_ATTRS, merge_record_extra
from pythonjsonlogger.json import JsonFormatter

from steer_server.observing.request import current_request

LOGGER = "steer_server"
NOT_OURS = frozenset({*RESERVED_ATTRS, "asctime", "message", "vllm_process_name"})
"""What any record has; vLLM adds the last."""


def is_json(log_format: str, stream: TextIO) -> bool:
    """Whether lines are JSON. Args: log_format: `json`, `text`, or `auto`: text in a terminal alone."""
    return log_format == "json" or (log_format == "auto" and not stream.isatty())


def configure(stream: TextIO, *, as_json: bool) -> None:
    """From now on our loggers, and no others, write lines to the stream."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_json_formatter() if as_json else TextFormatter())
    handler.addFilter(_with_ids)
    logger = logging.getLogger(LOGGER)
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _json_formatter() -> logging.Formatter:
    return JsonFormatter(
        ["levelname", "name", "message"],
        timestamp=True,
        reserved_attrs=sorted(NOT_OURS),
        json_ensure_ascii=False,
    )


class TextFormatter(logging.Formatter):
    """`time level logger: message key=value ...`; no message or value can break the line, but for the
    traceback that may follow it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = merge_record_extra(record, {}, NOT_OURS)
        words = [
            _unbroken(super().formatMessage(record)),
            *(f"{key}={_word(value)}" for key, value in fields.items()),
        ]
        return " ".join(words)


def _unbroken(text: str) -> str:
    """With line breaks, and all else that a terminal would obey, escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _word(value: object) -> str:
    if isinstance(value, str) and value.isprintable() and " " not in value:
        return value
    return json.dumps(value, default=str)


def _with_ids(record: logging.LogRecord) -> bool:
    """A filter, as handlers call it before they format; it lets every record pass."""
    request = current_request.get()
    if request is not None and not hasattr(record, "request_id"):
        record.request_id = request.id
        if request.span.trace_id is not None:
            record.trace_id = request.span.trace_id
    return True

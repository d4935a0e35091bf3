"""Spans of what runs now. Where it is not traced they are nothing, and cost a look at one variable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from enum import Enum
from typing import Protocol

from steer_server.errors import SteerError

Value = str | bool | int | float | Sequence[str]
Attributes = Mapping[str, Value | None]
"""None: not known, and left out."""


class Kind(Enum):
    """Where the other side of a span is."""

    INTERNAL = "internal"
    SERVER = "server"
    """Somebody asked us."""
    CLIENT = "client"
    """We ask somebody."""


class Span(Protocol):
    """One stage of a request."""

    @property
    def trace_id(self) -> str | None:
        """32 hexadecimal digits; None where it is not traced."""
        ...

    def set(self, attributes: Attributes) -> None: ...

    def rename(self, name: str) -> None: ...

    def fail(self, error_type: str) -> None:
        """It ended with an error; the first call counts. Args: error_type: one word, no text."""
        ...

    def end(self) -> None:
        """May be called more than once; it acts once."""
        ...

    def entered(self) -> AbstractContextManager[object]:
        """What begins in the block, and in tasks that it starts, is below this span."""
        ...


class Tracer(Protocol):
    """Makes spans."""

    def begin(
        self, name: str, attributes: Attributes, kind: Kind, caller: Mapping[str, str] | None = None
    ) -> Span:
        """A span below the present one. Args: caller: headers of the request whose trace it belongs to."""
        ...

    def headers(self) -> dict[str, str]:
        """W3C trace context of the present span, for whoever is asked next."""
        ...


class _NoSpan:
    trace_id = None

    def set(self, attributes: Attributes) -> None:
        pass

    def rename(self, name: str) -> None:
        pass

    def fail(self, error_type: str) -> None:
        pass

    def end(self) -> None:
        pass

    def entered(self) -> AbstractContextManager[object]:
        return nullcontext()


NO_SPAN: Span = _NoSpan()
current_tracer: ContextVar[Tracer | None] = ContextVar("current_tracer", default=None)
"""Of the request that runs now; None: it is not traced."""


def begin_span(name: str, attributes: Attributes, kind: Kind = Kind.INTERNAL) -> Span:
    """A span that whoever has it ends."""
    tracer = current_tracer.get()
    return NO_SPAN if tracer is None else tracer.begin(name, attributes, kind)


@contextmanager
def span(name: str, attributes: Attributes | None = None, kind: Kind = Kind.INTERNAL) -> Iterator[Span]:
    """The block is a span; an exception that leaves it makes it a failed one."""
    made = begin_span(name, attributes or {}, kind)
    try:
        with made.entered():
            yield made
    except BaseException as error:
        made.fail(error_type(error))
        raise
    finally:
        made.end()


def error_type(error: BaseException) -> str:
    """One word for it: its text may quote the client."""
    return error.code if isinstance(error, SteerError) else type(error).__name__


def trace_headers() -> dict[str, str]:
    """W3C trace context for a request to somebody else; empty where nothing is traced."""
    tracer = current_tracer.get()
    return {} if tracer is None else tracer.headers()

"""Every error the server answers with, and the only place that knows HTTP status codes.

SteerError
├── RequestError            400  invalid_steering          the client can mend it
│   ├── UnknownNameError    400  unknown_culture | unknown_value | unknown_key | ...
│   ├── QuarantinedError    400  adapter_quarantined       taken out of service
│   ├── PolicyError         400  policy_violation
│   │   └── DeniedError     403  adapter_denied | culture_not_allowed | operator_key_required | ...
│   ├── AuthenticationError 401  invalid_api_key
│   ├── BodyTooLargeError   413  body_too_large
│   ├── NotFoundError       404  model_not_found | adapter_not_found | key_not_found
│   └── ConflictError       409  adapter_incompatible | version_taken | ...   permanent: x-should-retry: false
│       └── AbortedError    409  adapter_quarantined       a running request that the server ended
├── CapacityError           503  no_bank_slot              retryable, carries Retry-After
│   ├── NotReadyError       503  not_ready
│   ├── DatabaseError       503  database_unavailable      what is served goes on; acts wait
│   ├── UpstreamUnavailableError 503 upstream_unavailable  busy, or it failed so often that it is left alone
│   └── RateLimitError      429  rate_limit_exceeded | concurrency_limit_exceeded
├── EngineError             502  engine_error              translated from vLLM in engine/
├── EngineRefusal            -   vLLM's own status and body, passed on
│   └── UpstreamRefusal      -   an upstream's 4xx: its status, its words
├── UpstreamError           502  upstream_unreachable | upstream_failed | upstream_cut | ...
│   └── UpstreamTimeoutError 504  upstream_timeout
├── CatalogueError          400  adapter_refused, with a `reason`   the old one stays; 503 for our own disk
├── ConfigError              -   the server does not start
├── TrainingError            -   a command ends with an exit code
└── EvaluationError          -   the same
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar

CLIENT_CLOSED_STATUS = 499
"""For metrics, when the client went away before the answer; nobody receives it."""

MAX_SHOWN_CHARACTERS = 100
"""Of a name in an error; no name that a catalogue can have is as long."""


def short(name: str) -> str:
    """A name as errors show it: clients may send one of megabytes."""
    return name if len(name) <= MAX_SHOWN_CHARACTERS else f"{name[: MAX_SHOWN_CHARACTERS - 1]}…"


def without_path(error: Exception) -> str:
    """What an exception says, but for the files of ours that the operating system names in it."""
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)


def _writable(text: str) -> str:
    """With halves of surrogate pairs escaped, which no encoding of an answer or a log has."""
    return text.encode(errors="backslashreplace").decode()


class SteerError(Exception):
    """Base of the tree. `str(error)` says what is wrong and how to mend it."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "InternalServerError"
    code: str = "internal_error"
    param: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(_writable(message))
        self.param = _writable(short(param)) if param is not None else self.param
        self.code = code or self.code

    @property
    def http_status(self) -> int:
        return self.status

    @property
    def headers(self) -> dict[str, str]:
        """Response headers that tell OpenAI clients whether a retry can help."""
        return {}

    def body(self) -> dict[str, Any]:
        """The error in OpenAI's shape."""
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}


class RequestError(SteerError):
    """The request is wrong; sending it again unchanged will fail again."""

    status = 400
    type = "BadRequestError"
    code = "invalid_steering"


class UnknownNameError(RequestError):
    """A name that is not known here, with the nearest one that is."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, param: str, code: str) -> None:
        # Of the shortened names: the search takes time that grows with the square of their lengths.
        name, known = short(name), sorted(map(short, known))
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        listing = f" Known: {', '.join(known[:20])}." if known else " None is loaded."
        super().__init__(f"Unknown {kind} {name!r}.{hint}{listing}", param=param, code=code)


class QuarantinedError(RequestError):
    """A name whose adapter was taken out of service."""

    code = "adapter_quarantined"

    def __init__(self, kind: str, name: str, title: str, *, param: str) -> None:
        super().__init__(
            f"The {kind} {name!r} cannot be used now: {title} is quarantined. Leave it out, or ask the "
            "operator.",
            param=param,
        )


class PolicyError(RequestError):
    """The operator's policy does not allow this."""

    code = "policy_violation"


class DeniedError(PolicyError):
    """An adapter that the operator's policy denies, or something that this key may not do."""

    status = 403
    type = "PermissionDeniedError"
    code = "adapter_denied"


class AuthenticationError(RequestError):
    """The key that this needs is missing, wrong, expired or revoked."""

    status = 401
    type = "AuthenticationError"
    code = "invalid_api_key"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class BodyTooLargeError(RequestError):
    status = 413
    code = "body_too_large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"The body is larger than {limit_bytes / 2**20:g} MiB; the operator's setting is "
            "STEER_MAX_BODY_MIB."
        )


class NotFoundError(RequestError):
    status = 404
    type = "NotFoundError"
    code = "model_not_found"


class ConflictError(RequestError):
    """Permanent: OpenAI clients retry 409 unless told not to."""

    status = 409
    type = "ConflictError"
    code = "adapter_incompatible"

    @property
    def headers(self) -> dict[str, str]:
        return {"x-should-retry": "false"}


class CapacityError(SteerError):
    """Nothing is wrong with the request; there is no room for it now."""

    status = 503
    type = "ServiceUnavailableError"
    code = "no_bank_slot"

    def __init__(self, message: str, *, retry_after_seconds: int = 1, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_seconds = retry_after_seconds

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after_seconds)}


class NotReadyError(CapacityError):
    """The server does not take steered requests now."""

    code = "not_ready"


class DatabaseError(CapacityError):
    """The catalogue's database does not answer. What is loaded goes on being served."""

    code = "database_unavailable"


class RateLimitError(CapacityError):
    """The key has used up its requests of this minute, or its places at one time."""

    status = 429
    type = "requests"
    """OpenAI's word for which of its limits was reached."""
    code = "rate_limit_exceeded"


class UpstreamUnavailableError(CapacityError):
    """An upstream is not asked now: it says that it is busy, or it failed too often."""

    code = "upstream_unavailable"


class AbortedError(ConflictError):
    """The server ended a running request: an operator quarantined an adapter that it used. The same request
    is refused from now on, so retrying it is no use."""

    code = "adapter_quarantined"


class EngineError(SteerError):
    """The engine failed; `engine/` translates vLLM's own exceptions into this."""

    status = 502
    type = "EngineError"
    code = "engine_error"


class EngineRefusal(SteerError):
    """vLLM refused the request with its own status and body, which are passed on as they are."""

    code = "refused_by_engine"
    """For metrics: the body has vLLM's own."""

    def __init__(self, body: dict[str, Any], status: int) -> None:
        detail = body.get("error", {})
        super().__init__(str(detail.get("message", "refused")), param=detail.get("param"))
        self._body, self._status = body, status

    @property
    def http_status(self) -> int:
        return self._status

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": "1"} if self._status in (409, 429, 503) else {}

    def body(self) -> dict[str, Any]:
        return self._body


class UpstreamRefusal(EngineRefusal):
    """An upstream refused the request (4xx): its status, and its words in OpenAI's shape."""

    code = "refused_by_upstream"

    def __init__(self, body: dict[str, Any], status: int, *, retry_after_seconds: int = 1) -> None:
        super().__init__(body, status)
        self._retry_after_seconds = retry_after_seconds

    @property
    def headers(self) -> dict[str, str]:
        return {name: str(self._retry_after_seconds) for name in super().headers}


class UpstreamError(SteerError):
    """An upstream gave no answer, or one that is none."""

    status = 502
    type = "UpstreamError"
    code = "upstream_failed"

    KEY_REFUSED = "upstream_key_refused"
    """Only its operator can mend it, so the client is told not to try again."""

    @property
    def headers(self) -> dict[str, str]:
        return {"x-should-retry": "false"} if self.code == self.KEY_REFUSED else {}


class UpstreamTimeoutError(UpstreamError):
    """An upstream gave no answer in time."""

    status = 504
    code = "upstream_timeout"


class CatalogueError(SteerError):
    """An adapter is refused. `reason` is one stable word for metrics and scripts; the body has it too."""

    status = 400
    type = "BadRequestError"
    code = "adapter_refused"

    STORAGE = frozenset({"storage_failed", "store_unavailable"})
    """Reasons that say nothing of the adapter: our disk or bucket does not work now."""

    def __init__(self, adapter: str, reason: str, detail: str) -> None:
        super().__init__(f"adapter {adapter}: {reason}: {detail}")
        self.adapter, self.reason, self.detail = adapter, reason, detail
        if self.is_about_storage:
            self.code = reason

    @property
    def is_about_storage(self) -> bool:
        return self.reason in self.STORAGE

    @property
    def http_status(self) -> int:
        return CapacityError.status if self.is_about_storage else self.status

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": "5"} if self.is_about_storage else {}

    def body(self) -> dict[str, Any]:
        body = super().body()
        body["error"]["type"] = CapacityError.type if self.is_about_storage else self.type
        body["error"]["reason"] = self.reason
        return body


class ConfigError(SteerError):
    """The server does not start."""


class TrainingError(SteerError):
    """A training command cannot go on."""


class EvaluationError(SteerError):
    """A measurement cannot be made, or too much of it failed."""

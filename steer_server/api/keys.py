"""Who sends a request, by its bearer token, and what that key lets it do. Routes ask; nothing here answers.

Not covered: limits are counted per replica, so a key has its rate and its places on each of them.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter
from pydantic import SecretStr
from starlette.requests import HTTPConnection

from steer_server.api.remembered import Remembered
from steer_server.catalogue import keys
from steer_server.catalogue.database import Database
from steer_server.catalogue.records import Actor, KeyLimits, KeyRecord, KeyRole
from steer_server.catalogue.tables import now
from steer_server.errors import AuthenticationError, DatabaseError, DeniedError, RateLimitError, short
from steer_server.steering.spec import SteeringSpec

SECONDS_BETWEEN_WRITES = 60.0
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
"""A request that carries one of these came through a proxy: whoever sent it is not on this machine."""


@dataclass(frozen=True)
class Caller:
    """Who sends a request."""

    actor: Actor
    key: KeyRecord | None = None
    """None: a key from the settings, this machine, or nobody in particular; without limits."""

    @property
    def limits(self) -> KeyLimits:
        return KeyLimits() if self.key is None else self.key.limits


class KeyGate:
    """Finds keys and holds their limits. One per server."""

    def __init__(
        self,
        database: Database,
        *,
        admin_key: SecretStr | None = None,
        api_key: SecretStr | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            admin_key: STEER_ADMIN_KEY, an operator key that is not in the database.
            api_key: STEER_API_KEY, an application key that is not in the database and has no limits.
        """
        self._database = database
        self._static = {"operator": admin_key, "application": api_key}
        self._keys: Remembered[KeyRecord | None] = Remembered(clock)
        self._asks_for_keys: Remembered[bool] = Remembered(clock)
        self._used: dict[str, datetime] = {}
        self._running: dict[str, int] = {}
        self._windows: dict[str, MovingWindowRateLimiter] = {}

    async def application(self, request: HTTPConnection) -> Caller:
        """Who asks for an answer. A key of either role will do.

        Without STEER_API_KEY, and until the first application key is made, a key is not asked for.

        Raises: AuthenticationError (401); DatabaseError (503) when a key cannot be looked up.
        """
        token = _bearer(request)
        caller = await self._caller(token, request)
        if caller is not None:
            return caller
        if self._static["application"] is not None or await self._asks_for_keys.get(
            "", lambda: keys.has_application_keys(self._database)
        ):
            raise AuthenticationError(
                "Incorrect API key." if token else "Give an API key: `Authorization: Bearer <key>`."
            )
        return Caller(Actor("anonymous", "application", _address(request)))

    async def operator(self, request: HTTPConnection) -> Caller:
        """Who administers: STEER_ADMIN_KEY, an operator key, or, when there is no STEER_ADMIN_KEY, a request
        that comes from this machine itself.

        Raises: AuthenticationError (401); DeniedError (403) for an application key; DatabaseError (503).
        """
        caller = await self._caller(_bearer(request), request)
        if caller is not None and caller.actor.role == "operator":
            return caller
        if caller is not None:
            raise DeniedError("This needs an operator key.", code="operator_key_required")
        if self._static["operator"] is None:
            if _is_from_this_machine(request):
                return Caller(Actor("this machine", "operator", _address(request)))
            raise AuthenticationError(
                "Without STEER_ADMIN_KEY this answers to an operator key, or on the server's own machine."
            )
        raise AuthenticationError("Give an operator key: `Authorization: Bearer <key>`.")

    def check_spec(self, caller: Caller, spec: SteeringSpec, *, param: str = "steering") -> None:
        """Raises: DeniedError (403) whose `param` names the culture or axis that the key may not use.

        What is asked for is checked, not the plan: the policy's floors may add axes that nobody asked for.
        """
        _check_names("culture", spec.cultures, caller.limits.cultures, f"{param}.cultures")
        _check_names("value", spec.values, caller.limits.axes, f"{param}.values")

    @asynccontextmanager
    async def admit(self, caller: Caller) -> AsyncIterator[None]:
        """Counts a request while it runs; a stream runs until its end.

        Raises: RateLimitError (429) with Retry-After. A request that finds no place does not count as one of
            the minute's.
        """
        if caller.key is None:
            yield
            return
        key_id, limits = caller.key.id, caller.limits
        running = self._running.get(key_id, 0)
        if limits.concurrency is not None and running >= limits.concurrency:
            raise RateLimitError(
                f"This key has {running} requests running; at most {limits.concurrency} at one time.",
                code="concurrency_limit_exceeded",
            )
        self._running[key_id] = running + 1
        try:
            if limits.requests_per_minute is not None:
                await self._count(key_id, limits.requests_per_minute)
            yield
        finally:
            self._running[key_id] -= 1
            if not self._running[key_id]:
                del self._running[key_id]

    def forget(self) -> None:
        """Asks the database again about every key. For each new revision: making and revoking keys is one."""
        self._keys.expire()
        self._asks_for_keys.expire()

    async def keep_writing_uses(self) -> None:
        """Writes them every `SECONDS_BETWEEN_WRITES`, until cancelled."""
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_WRITES)
            with suppress(DatabaseError):  # logged; tried again
                await self.write_uses()

    async def write_uses(self) -> None:
        """Writes when keys were last used. For once in a while: no request waits for it.

        Raises: DatabaseError; the times are kept for the next attempt.
        """
        used, self._used = self._used, {}
        if not used:
            return
        try:
            await keys.note_use(self._database, used)
        except DatabaseError:
            self._used = {**used, **self._used}
            raise

    async def _caller(self, token: str, request: HTTPConnection) -> Caller | None:
        """None for no token or a foreign one. Raises: AuthenticationError for one of ours that is no good."""
        if not token:
            return None
        sha256 = keys.secret_sha256(token)
        roles: tuple[KeyRole, ...] = ("operator", "application")
        for role in roles:
            static = self._static[role]
            if static is not None and hmac.compare_digest(
                keys.secret_sha256(static.get_secret_value()), sha256
            ):
                return Caller(Actor(f"static {role} key", role, _address(request)))
        if not token.startswith(tuple(keys.PREFIXES.values())):
            return None
        key = await self._keys.get(sha256, lambda: keys.find_key(self._database, sha256))
        if key is None:
            raise AuthenticationError("Incorrect API key.")
        if key.revoked_at is not None:
            raise AuthenticationError("This API key was revoked.")
        if key.limits.expires_at is not None and key.limits.expires_at <= now():
            raise AuthenticationError("This API key has expired.")
        self._used[key.id] = now()
        return Caller(Actor(key.id, key.role, _address(request)), key)

    async def _count(self, key_id: str, requests_per_minute: int) -> None:
        # A storage for each key: every hit sweeps all of a storage, with a thread for each entry, which
        # took 2 ms of the event loop at 200 keys.
        window = self._windows.get(key_id)
        if window is None:
            window = self._windows[key_id] = MovingWindowRateLimiter(MemoryStorage())
        limit = RateLimitItemPerMinute(requests_per_minute)
        if not await window.hit(limit, key_id):
            wait_seconds = (await window.get_window_stats(limit, key_id)).reset_time - time.time()
            raise RateLimitError(
                f"This key has used its {requests_per_minute} requests per minute.",
                retry_after_seconds=max(1, math.ceil(wait_seconds)),
            )


def _check_names(kind: str, named: Iterable[str], allowed: frozenset[str] | None, param: str) -> None:
    if allowed is None:
        return
    for name in sorted(set(named) - allowed):
        raise DeniedError(
            f"This key may not use the {kind} {short(name)!r}. "
            f"It may use: {', '.join(sorted(allowed)) or 'none'}.",
            param=f"{param}.{name}",
            code=f"{kind}_not_allowed",
        )


def _bearer(request: HTTPConnection) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _address(request: HTTPConnection) -> str | None:
    return request.client.host if request.client else None


def _is_from_this_machine(request: HTTPConnection) -> bool:
    """Whether a program of this machine speaks for itself: not a proxy for others, and not a browser for a
    web page, which may send requests to loopback (Origin) or to a name that it points there (Host)."""
    if any(request.headers.get(name) for name in FORWARDED):
        return False
    try:
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname
        origin = urlsplit(request.headers.get("origin", "http://localhost")).hostname
    except ValueError:
        return False
    return all(_is_loopback(name) for name in (_address(request), host, origin))


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback

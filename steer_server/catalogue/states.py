"""The states of one adapter version, and which may follow which. Pure: no database, no clock.

staged -> validated -> probed -> active -> draining -> retired, or quarantined from any of them.

`draining` is what one replica shows while its running requests still hold a version that is not active any
more. Only that replica knows it, so it is never stored: in the database a version goes from active to retired
in one step.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from steer_server.errors import ConflictError


class State(StrEnum):
    STAGED = "staged"
    """Its files are in the store; nothing about them is believed yet."""
    VALIDATED = "validated"
    """Manifest, files and tensors passed every check that needs no engine."""
    PROBED = "probed"
    """The engine ran it; it may become active."""
    ACTIVE = "active"
    """Its name's alias points at it: requests are planned with it."""
    DRAINING = "draining"
    """Not planned with any more; running requests hold it. Local to a replica."""
    RETIRED = "retired"
    """Was active and may be again, by rollback or activation."""
    QUARANTINED = "quarantined"
    """Not to be used until an operator releases it; then it is checked anew."""


_S = State

TRANSITIONS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        _S.STAGED: frozenset({_S.VALIDATED, _S.QUARANTINED}),
        _S.VALIDATED: frozenset({_S.PROBED, _S.QUARANTINED}),
        _S.PROBED: frozenset({_S.ACTIVE, _S.QUARANTINED}),
        _S.ACTIVE: frozenset({_S.DRAINING, _S.RETIRED, _S.QUARANTINED}),
        _S.DRAINING: frozenset({_S.RETIRED, _S.ACTIVE, _S.QUARANTINED}),
        _S.RETIRED: frozenset({_S.ACTIVE, _S.QUARANTINED}),
        _S.QUARANTINED: frozenset({_S.VALIDATED}),
    }
)

STORED = frozenset(_S) - {_S.DRAINING}
"""The states that the database may hold."""

ACTIVATABLE = frozenset(state for state in STORED if _S.ACTIVE in TRANSITIONS[state])
"""The stored states from which a version may become active: probed and retired."""


def check_transition(title: str, current: State, to: State) -> None:
    """Does nothing when `current` -> `to` is allowed.

    Args:
        title: `name@version`, for the message.

    Raises: ConflictError `state_conflict` that says what is allowed.
    """
    if to not in TRANSITIONS[current]:
        allowed = ", ".join(sorted(TRANSITIONS[current]))
        raise ConflictError(
            f"{title} is {current} and cannot become {to}; from {current} it can become {allowed}.",
            code="state_conflict",
        )

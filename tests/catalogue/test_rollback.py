"""Where rolling back leads, from the history alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from steer_server.catalogue.aliases import rollback_target
from steer_server.catalogue.records import AliasMove
from steer_server.catalogue.tables import now


def moves(*steps: str) -> list[AliasMove]:
    """`d1` activates, `<d1` rolls back to, `-` deactivates."""
    found, at = [], None
    for number, step in enumerate(steps):
        digest = None if step == "-" else step.removeprefix("<")
        action = {"-": "deactivate", "<": "rollback"}.get(step[0], "activate")
        found.append(AliasMove(number, "a", digest, at, digest and "1", action, "x", now()))
        at = digest
    return found


def target(*steps: str, unusable: str = "") -> str | None:
    history = moves(*steps)
    return rollback_target(history, lambda d: d not in unusable.split() and d != history[-1].digest)


def test_examples() -> None:
    assert target("d1") is None
    assert target("d1", "d2") == "d1"
    assert target("d1", "d2", "d3", "<d2") == "d1"
    assert target("d1", "d2", "d3", "<d2", "<d1") is None
    assert target("d1", "d2", "<d1", "d3") == "d1"
    assert target("d1", "d2", "<d1", "d2") == "d1"
    assert target("d1", "d2", "d1") == "d2"
    assert target("d1", "d2", "-") == "d2"
    assert target("d1", "d2", "-", "<d2") == "d1"
    assert target("d1", "d2", "d3", unusable="d2") == "d1"
    assert target("d1", "d2", "d3", "<d1", unusable="d2") is None
    assert target("d1", "d2", "-", "d2") == "d1"


@given(
    st.lists(st.sampled_from(["d1", "d2", "d3", "d4", "-"]), min_size=1, max_size=12),
    st.sets(st.sampled_from(["d1", "d2", "d3", "d4"])),
)
def test_rolling_back_ends_after_as_many_steps_as_were_activated(
    steps: list[str], unusable: set[str]
) -> None:
    seen: list[str] = []
    while (found := target(*steps, unusable=" ".join(unusable))) is not None:
        assert found in steps and found not in unusable
        seen.append(found)
        steps = [*steps, f"<{found}"]
        assert len(seen) <= len(steps) - len(seen)

import pytest

from steer_server.catalogue.states import ACTIVATABLE, STORED, TRANSITIONS, State, check_transition
from steer_server.errors import ConflictError


def test_every_state_has_its_row() -> None:
    assert set(TRANSITIONS) == set(State)
    assert all(targets and state not in targets for state, targets in TRANSITIONS.items())


def test_the_whole_way_of_a_version_is_allowed() -> None:
    way = [State.STAGED, State.VALIDATED, State.PROBED, State.ACTIVE, State.DRAINING, State.RETIRED]
    for current, to in zip([*way, State.RETIRED], [*way[1:], State.ACTIVE, State.QUARANTINED], strict=True):
        if current is not to:
            check_transition("a@1", current, to)


def test_every_state_but_quarantine_can_be_quarantined() -> None:
    assert {s for s, targets in TRANSITIONS.items() if State.QUARANTINED in targets} == set(State) - {
        State.QUARANTINED
    }


def test_only_probed_and_retired_versions_are_activated_in_the_database() -> None:
    assert sorted(ACTIVATABLE) == ["probed", "retired"]
    assert State.DRAINING not in STORED


@pytest.mark.parametrize(("current", "to"), [(c, t) for c in State for t in State if t not in TRANSITIONS[c]])
def test_a_refusal_says_what_is_allowed(current: State, to: State) -> None:
    with pytest.raises(ConflictError) as caught:
        check_transition("a@1", current, to)
    assert caught.value.code == "state_conflict"
    assert all(allowed in str(caught.value) for allowed in ("a@1", *TRANSITIONS[current]))

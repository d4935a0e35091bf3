import pytest

from steer_server.errors import UpstreamUnavailableError
from steer_server.upstream.breaker import THRESHOLD, Breaker, BreakerState


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def states() -> list[BreakerState]:
    return []


@pytest.fixture
def breaker(clock: Clock, states: list[BreakerState]) -> Breaker:
    return Breaker("up", open_seconds=10, on_change=states.append, clock=clock)


def fail(breaker: Breaker, times: int = THRESHOLD) -> None:
    for _ in range(times):
        breaker.admit().end(True)


def test_failures_in_a_row_open_it_and_it_says_when_to_come_back(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    clock.now = 3.5
    with pytest.raises(UpstreamUnavailableError, match="'up' failed repeatedly") as caught:
        breaker.admit()
    assert caught.value.headers == {"Retry-After": "7"}


def test_one_success_forgives_the_failures_before_it(breaker: Breaker) -> None:
    fail(breaker, THRESHOLD - 1)
    breaker.admit().end(False)
    fail(breaker, THRESHOLD - 1)
    assert breaker.state is BreakerState.CLOSED


def test_a_client_that_left_says_nothing_about_the_upstream(breaker: Breaker) -> None:
    fail(breaker, THRESHOLD - 1)
    breaker.admit().end(None)
    fail(breaker, 1)
    assert breaker.state is BreakerState.OPEN


def test_a_request_counts_once(breaker: Breaker) -> None:
    permit = breaker.admit()
    for _ in range(THRESHOLD):
        permit.end(True)
    assert breaker.state is BreakerState.CLOSED


def test_half_open_lets_one_probe_through_and_its_first_byte_closes_it(
    breaker: Breaker, clock: Clock, states: list[BreakerState]
) -> None:
    fail(breaker)
    clock.now = 10
    probe = breaker.admit()
    with pytest.raises(UpstreamUnavailableError):
        breaker.admit()
    probe.first_byte()
    breaker.admit()
    assert states == [BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED]


def test_a_probe_that_fails_opens_it_again(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    clock.now = 10
    breaker.admit().end(True)
    clock.now = 19
    with pytest.raises(UpstreamUnavailableError):
        breaker.admit()
    clock.now = 20
    breaker.admit().end(False)
    assert breaker.state is BreakerState.CLOSED


def test_a_probe_whose_client_left_makes_room_for_the_next(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    clock.now = 10
    breaker.admit().end(None)
    breaker.admit().end(False)
    assert breaker.state is BreakerState.CLOSED


def test_requests_from_before_it_opened_change_nothing(breaker: Breaker, clock: Clock) -> None:
    early, late = breaker.admit(), breaker.admit()
    fail(breaker)
    early.first_byte()
    early.end(False)
    assert breaker.state is BreakerState.OPEN
    clock.now = 10
    probe = breaker.admit()
    late.end(True)
    assert breaker.state is BreakerState.HALF_OPEN
    probe.end(False)
    assert breaker.state is BreakerState.CLOSED

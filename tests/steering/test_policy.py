from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer_server.errors import ConfigError, PolicyError
from steer_server.steering.policy import Policy
from steer_server.steering.spec import SteeringSpec

BEYOND = {
    "a weight above 1": (SteeringSpec(cultures={"a": 1.5}), "steering.cultures.a"),
    "a negative weight": (SteeringSpec(cultures={"a": -0.1}), "steering.cultures.a"),
    "a negative value": (SteeringSpec(values={"kind": -1.0}), "steering.values.kind"),
    "a huge strength": (SteeringSpec(cultures={"a": 1.0}, strength=1e9), "steering.strength"),
    "a negative strength": (SteeringSpec(cultures={"a": 1.0}, strength=-1.0), "steering.strength"),
}


@pytest.mark.parametrize(("spec", "param"), BEYOND.values(), ids=BEYOND.keys())
def test_what_lies_beyond_the_limits_is_refused(spec: SteeringSpec, param: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy().check_spec(spec, param="steering")
    assert caught.value.param == param


def test_an_operator_can_allow_steering_away() -> None:
    Policy(min_weight=-1).check_spec(SteeringSpec(cultures={"a": -0.5}), param="steering")


axes = st.fixed_dictionaries({axis: st.floats(0, 1) for axis in ("x", "y", "z")})


@given(axes, axes)
def test_floored_values_stay_on_the_simplex_and_at_their_floors(
    shares: dict[str, float], floors: dict[str, float]
) -> None:
    total, most = sum(shares.values()), sum(floors.values())
    if total == 0:
        return
    shares = {axis: share / total for axis, share in shares.items()}
    floors = {axis: floor / max(1, most * 1.0001) for axis, floor in floors.items()}
    raised = Policy(value_floors=floors).floor_values(shares)
    assert sum(raised.values()) == pytest.approx(1)
    assert all(raised[axis] >= floors[axis] - 1e-9 for axis in raised)


def test_values_above_their_floors_are_left_alone() -> None:
    shares = {"x": 0.7, "y": 0.3}
    assert Policy(value_floors={"y": 0.2}).floor_values(shares) == pytest.approx(shares)


@pytest.mark.parametrize(
    "text", ["max_weigth: 1", "value_floors: {a: 0.6, b: 0.6}", "min_weight: 2", "[", "max_strength: much"]
)
def test_a_bad_policy_file_stops_the_start(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        Policy.read(path)

"""Which heads score, and which answer they choose: the formula, ties, and who is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from steer_server.catalogue.snapshot import Catalogue
from steer_server.errors import DeniedError, PolicyError, QuarantinedError, UnknownNameError
from steer_server.steering.policy import Policy
from steer_server.steering.scoring import aggregate, best_first, head_shares, heads_of_spec
from steer_server.steering.spec import SteeringSpec, parse_spec
from tests.support.adapters import TINY, tiny_base_model
from tests.support.heads import loaded_head


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    folder = tmp_path_factory.mktemp("heads")
    base = tiny_base_model(folder / TINY)
    return Catalogue.of([loaded_head(folder, "head-kind", base), loaded_head(folder, "head-terse", base)])


def spec(**steering: object) -> SteeringSpec:
    return parse_spec({"method": "best_of_n", "reward_heads": ["kind", "terse"], **steering})


def test_the_aggregate_is_the_weighted_mean_of_calibrated_scores() -> None:
    shares = head_shares(spec(options={"weights": {"kind": 3, "terse": 1}}))
    assert shares == {"kind": 0.75, "terse": 0.25}
    assert aggregate({"kind": 0.4, "terse": 0.8}, shares) == pytest.approx(0.75 * 0.4 + 0.25 * 0.8)


def test_weights_too_large_to_be_added_up_keep_their_shares() -> None:
    shares = head_shares(spec(options={"weights": {"kind": 1.5e308, "terse": 0.5e308}}))
    assert shares == pytest.approx({"kind": 0.75, "terse": 0.25})


def test_without_weights_every_head_counts_the_same() -> None:
    assert head_shares(spec()) == {"kind": 0.5, "terse": 0.5}


def test_a_head_that_the_weights_leave_out_is_only_reported() -> None:
    assert head_shares(spec(options={"weights": {"terse": 2}})) == {"kind": 0.0, "terse": 1.0}


def test_the_best_comes_first_equals_as_they_were_drawn_and_what_has_no_score_last() -> None:
    assert best_first([0.2, None, 0.9, 0.2, 0.9]) == [2, 4, 0, 3, 1]


def test_heads_are_found_by_their_place_in_the_request(catalogue: Catalogue) -> None:
    found = heads_of_spec(spec(), catalogue, Policy())
    assert {place: head.title for place, head in found.items()} == {
        "steering.reward_heads.0": "head-kind@1.0.0",
        "steering.reward_heads.1": "head-terse@1.0.0",
    }


def test_an_unknown_head_is_refused_with_the_nearest(catalogue: Catalogue) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'terse'") as caught:
        heads_of_spec(spec(reward_heads=["kind", "terce"]), catalogue, Policy(), param="X-Steering")
    assert (caught.value.param, caught.value.code) == ("X-Steering.reward_heads.1", "unknown_reward_head")


def test_a_quarantined_head_is_refused_by_name(catalogue: Catalogue) -> None:
    quarantined = replace(catalogue, reward_heads={}, quarantined={"kind": "head-kind@1.0.0"})
    with pytest.raises(QuarantinedError, match=r"head-kind@1\.0\.0"):
        heads_of_spec(spec(), quarantined, Policy())


def test_a_denied_head_is_refused(catalogue: Catalogue) -> None:
    with pytest.raises(DeniedError):
        heads_of_spec(spec(), catalogue, Policy(denied_adapters=frozenset({"head-terse"})))


def test_more_candidates_than_the_policy_allows_are_refused(catalogue: Catalogue) -> None:
    policy = Policy(max_candidates=8)
    assert heads_of_spec(spec(options={"n": 8}), catalogue, policy)
    with pytest.raises(PolicyError, match="at most 8") as caught:
        heads_of_spec(spec(options={"n": 9}), catalogue, policy)
    assert caught.value.param == "steering.options.n"

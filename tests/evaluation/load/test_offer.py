"""Vectors are within what the server offers, and no two are one plan."""

from __future__ import annotations

import random

import httpx
import pytest

from steer_server.errors import EvaluationError
from steer_server.evaluation.load.offer import Offer, Vectors, read_offer
from tests.support.servers import NUM_SLOTS, POLICY, Running

OFFER = Offer(
    model="m",
    methods=("adapters", "align_pro", "best_of_n", "diffpo", "none"),
    cultures=("a", "b", "c", "d"),
    axes=(("helpful", "harmless"), ("bold",)),
    heads=("warm",),
    prompters=("clear",),
    max_weight=0.8,
    max_adapters=3,
    max_candidates=2,
)


def test_no_two_vectors_are_equal_and_all_are_within_the_limits() -> None:
    vectors = Vectors(OFFER, random.Random(1), blend=3)
    drawn = [vectors.steering("adapters") for _ in range(2000)]
    assert len({repr(one) for one in drawn}) == 2000
    assert {len(one.get("cultures", ())) for one in drawn} == {0, 1, 2, 3}
    assert {tuple(one["values"]) for one in drawn if "values" in one} == set(OFFER.axes)
    for one in drawn:
        cultures = one.get("cultures", {})
        assert len(cultures) + ("values" in one) <= OFFER.max_adapters
        assert all(weight > 0 for weight in cultures.values()) and sum(cultures.values()) <= 0.802
        assert "cultures" in one or "values" in one


def test_without_cultures_values_are_weighed_and_the_other_way_round() -> None:
    for changed, key in (({"cultures": ()}, "values"), ({"axes": ()}, "cultures")):
        vectors = Vectors(Offer(**{**vars(OFFER), **changed}), random.Random(1))
        assert all(set(vectors.steering("adapters")) == {"method", key} for _ in range(50))


async def test_what_a_server_offers_is_accepted_by_it(fake: Running) -> None:
    async with fake.http() as http:
        offer = await read_offer(http, fake.model)
        assert set(offer.cultures) == set(fake.cultures) and offer.heads == ("brief", "warm")
        assert offer.max_adapters == min(NUM_SLOTS, int(str(POLICY["max_adapters"])))
        # Nobody has a prompter.
        assert offer.methods == ("adapters", "best_of_n", "diffpo", "none")
        vectors = Vectors(offer, random.Random(1))
        plans = set()
        for method in offer.methods:
            for _ in range(20):
                steering = vectors.steering(method)
                planned = await http.post("/v1/steering/plan", json={"steering": steering})
                assert planned.status_code == 200, (steering, planned.text)
                if method != "none":
                    plans.add(planned.json()["plan"])
        assert len(plans) == 60
        assert (await read_offer(http, fake.model, ["blue"])).cultures == ("blue",)
        with pytest.raises(EvaluationError, match="no such culture: atlantis"):
            await read_offer(http, fake.model, ["atlantis"])


async def test_a_server_of_another_kind_is_told_apart() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(404))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
        with pytest.raises(EvaluationError, match="does not say what it offers"):
            await read_offer(http, "m")

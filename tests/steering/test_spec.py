import math
from typing import Any

import pytest

from steer_server.errors import RequestError
from steer_server.steering.spec import parse_spec, parse_spec_text

WRONG = {
    "not an object": ([1], "steering"),
    "null": (None, "steering"),
    "a string": ("confucian", "steering"),
    "a misspelt key": ({"culturs": {"a": 1}}, "steering.culturs"),
    "nothing to steer by": ({}, "steering"),
    "an empty map of cultures": ({"cultures": {}}, "steering.cultures"),
    "an empty map of values": ({"values": {}}, "steering.values"),
    "cultures as a list": ({"cultures": ["a"]}, "steering.cultures"),
    "cultures as null": ({"cultures": None}, "steering.cultures"),
    "a weight as text": ({"cultures": {"a": "1"}}, "steering.cultures.a"),
    "a weight as a boolean": ({"cultures": {"a": True}}, "steering.cultures.a"),
    "a weight as null": ({"cultures": {"a": None}}, "steering.cultures.a"),
    "a NaN weight": ({"cultures": {"a": math.nan}}, "steering.cultures.a"),
    "an infinite weight": ({"values": {"a": math.inf}}, "steering.values.a"),
    "a weight too large for a float": ({"cultures": {"a": 10**400}}, "steering.cultures.a"),
    "weights that sum to 0": ({"cultures": {"a": 0, "b": 0.0}}, "steering.cultures"),
    "too many entries": ({"cultures": {f"c{i}": 1 for i in range(65)}}, "steering.cultures"),
    "strength as text": ({"cultures": {"a": 1}, "strength": "max"}, "steering.strength"),
    "a NaN strength": ({"cultures": {"a": 1}, "strength": math.nan}, "steering.strength"),
    "an unknown method": ({"cultures": {"a": 1}, "method": "adaptors"}, "steering.method"),
    "align_pro with cultures": ({"cultures": {"a": 1}, "method": "align_pro"}, "steering.cultures"),
    "method as a number": ({"cultures": {"a": 1}, "method": 3}, "steering.method"),
    "none with cultures": ({"cultures": {"a": 1}, "method": "none"}, "steering.method"),
    "a reward head twice": ({"method": "none", "reward_heads": ["a", "b", "a"]}, "steering.reward_heads.2"),
    "too many reward heads": (
        {"method": "none", "reward_heads": [f"h{i}" for i in range(65)]},
        "steering.reward_heads",
    ),
    "best of n without heads": ({"method": "best_of_n"}, "steering.reward_heads"),
    "n as text": (
        {"method": "best_of_n", "reward_heads": ["h"], "options": {"n": "4"}},
        "steering.options.n",
    ),
    "n of 0": ({"method": "best_of_n", "reward_heads": ["h"], "options": {"n": 0}}, "steering.options.n"),
    "a weight for a head that is not asked": (
        {"method": "best_of_n", "reward_heads": ["h"], "options": {"weights": {"g": 1}}},
        "steering.options.weights.g",
    ),
    "a negative weight of a head": (
        {"method": "best_of_n", "reward_heads": ["h", "g"], "options": {"weights": {"h": 1, "g": -1}}},
        "steering.options.weights.g",
    ),
    "weights of heads that sum to 0": (
        {"method": "best_of_n", "reward_heads": ["h"], "options": {"weights": {"h": 0}}},
        "steering.options.weights",
    ),
    "an option that best_of_n has not": (
        {"method": "best_of_n", "reward_heads": ["h"], "options": {"loops": 1}},
        "steering.options.loops",
    ),
    "a place to read that there is not": (
        {"method": "none", "reward_heads": ["h"], "options": {"read": "turn"}},
        "steering.options.read",
    ),
    "a place to read as a list": (
        {"method": "best_of_n", "reward_heads": ["h"], "options": {"read": ["generation"]}},
        "steering.options.read",
    ),
    "a place to read as null": (
        {"method": "none", "reward_heads": ["h"], "options": {"read": None}},
        "steering.options.read",
    ),
    "a place to read for no head": (
        {"cultures": {"a": 1}, "options": {"read": "generation"}},
        "steering.options.read",
    ),
    "a place to read for a method of several answers": (
        {
            "method": "diffpo",
            "reward_heads": ["h"],
            "options": {"statement": "Be kind.", "read": "generation"},
        },
        "steering.options.read",
    ),
    "reward heads as text": ({"cultures": {"a": 1}, "reward_heads": "kind"}, "steering.reward_heads"),
    "an option the method has not": ({"cultures": {"a": 1}, "options": {"n": 4}}, "steering.options.n"),
    "options as a list": ({"cultures": {"a": 1}, "options": []}, "steering.options"),
}


@pytest.mark.parametrize(("document", "param"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_spec_is_refused_with_the_field_that_is_wrong(document: object, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_spec(document)
    assert caught.value.param == param
    assert caught.value.http_status == 400


def test_an_error_suggests_the_nearest_key() -> None:
    with pytest.raises(RequestError, match="Did you mean 'cultures'"):
        parse_spec({"culturs": {"a": 1}})


@pytest.mark.parametrize("steering", [{"cultures": {"a": 1}}, {"method": "none"}, {"method": "best_of_n"}])
def test_heads_read_the_end_of_the_turn_unless_asked_to_read_the_generation(steering: dict[str, Any]) -> None:
    asked = {**steering, "reward_heads": ["h"]}
    assert parse_spec(asked).read == parse_spec({**asked, "options": {"read": "turn_end"}}).read == "turn_end"
    assert parse_spec({**asked, "options": {"read": "generation"}}).read == "generation"


def test_the_defaults_are_full_strength_and_adapters() -> None:
    spec = parse_spec({"cultures": {"a": 1}})
    assert (spec.strength, spec.method, dict(spec.values)) == (1.0, "adapters", {})


def test_a_header_that_is_not_json_is_refused() -> None:
    with pytest.raises(RequestError, match="not valid JSON") as caught:
        parse_spec_text("{cultures", param="X-Steering")
    assert caught.value.param == "X-Steering"


def test_a_name_of_megabytes_is_shown_short_and_so_are_those_that_it_might_be() -> None:
    head = "h" * 2**20
    with pytest.raises(RequestError) as caught:
        parse_spec({"method": "best_of_n", "reward_heads": [head], "options": {"weights": {head + "!": 1}}})
    told, param = str(caught.value), caught.value.param or ""
    assert len(told) < 500 and told.count("…") == 3
    assert param.startswith("steering.options.weights.hhh") and param.endswith("…") and len(param) == 100


def test_an_error_can_always_be_written() -> None:
    error = RequestError("half: \ud800", param="steering.\ud800")
    assert (str(error), error.param) == ("half: \\ud800", "steering.\\ud800")


@pytest.mark.parametrize(
    ("text", "param"),
    [
        ("[" * 50_000, "X-Steering"),
        ('{"strength": 1e999}', "X-Steering.strength"),
        ('{"cultures": {"\\ud800": 1}}', r"X-Steering.cultures.\ud800"),
    ],
)
def test_a_header_is_read_as_strictly_as_a_body(text: str, param: str) -> None:
    with pytest.raises(RequestError, match="not valid JSON") as caught:
        parse_spec_text(text, param="X-Steering")
    assert caught.value.param == param

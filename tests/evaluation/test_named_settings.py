from __future__ import annotations

import pytest

from steer_server.errors import EvaluationError
from steer_server.evaluation.client import Culture, OfferedAxis, ServerClient, ServerInfo, check_plan
from steer_server.evaluation.named_settings import (
    BASE,
    axes_alone,
    blended_axes,
    blended_cultures,
    cultures_alone,
    parse_settings,
    read_plans,
)
from tests.evaluation.values_server import ValuesServer

INFO = ServerInfo(
    "http://test",
    "tiny",
    tuple(Culture(c, (), c) for c in ("amber", "blue", "coral", "denim")),
    (),
    (OfferedAxis("calm", "a"), OfferedAxis("bold", "b"), OfferedAxis("warm", "a")),
)


def test_a_setting_is_sent_as_the_json_that_was_given() -> None:
    (setting,) = parse_settings(['half={"values": {"a": 1}, "strength": 0.5}'])
    assert setting.name == "half"
    assert setting.steering() == {"steering": {"values": {"a": 1}, "strength": 0.5}}


@pytest.mark.parametrize("text", ["", "name", "name=", "name=[1]", "={}", 'x={"a"'])
def test_anything_but_a_name_and_a_json_object_is_an_error(text: str) -> None:
    with pytest.raises(EvaluationError, match="--setting"):
        parse_settings([text])


def test_a_name_may_not_occur_twice_or_be_a_row_of_the_report() -> None:
    with pytest.raises(EvaluationError, match="the name x"):
        parse_settings(["x={}", "x={}"])
    with pytest.raises(EvaluationError, match="the name base"):
        parse_settings(["base={}"], taken=("base",))


def test_defaults_are_each_axis_and_culture_alone_and_even_blends() -> None:
    assert [s.steering()["steering"]["values"] for s in axes_alone(INFO)] == [
        {"calm": 1.0},
        {"bold": 1.0},
        {"warm": 1.0},
    ]
    (blend,) = blended_axes(INFO)
    assert blend.steering()["steering"] == {"values": {"calm": 0.5, "warm": 0.5}}, "axes of one adapter"
    assert [s.name for s in cultures_alone(INFO)] == ["amber", "blue", "coral", "denim"]
    (three,) = blended_cultures(INFO)
    assert three.steering()["steering"]["cultures"] == pytest.approx(
        dict.fromkeys(("amber", "blue", "coral"), 1 / 3)
    )
    alone = ServerInfo("", "", INFO.cultures[:1], (), INFO.axes[1:])
    assert blended_axes(alone) == blended_cultures(alone) == []


async def test_a_setting_that_the_server_refuses_ends_the_command_before_anything_is_measured() -> None:
    server = ValuesServer({}, lambda cultures, before, option: 1.0)
    async with ServerClient("http://test", transport=server.transport()) as client:
        settings = parse_settings(['odd={"values": {"oddness": 1}}'])
        plans = await read_plans(client, [BASE])
        with pytest.raises(EvaluationError, match="'odd' is refused: 400: Unknown value axis oddness"):
            await read_plans(client, settings)
    check_plan({"steering": plans["base"]}, plans["base"])
    with pytest.raises(ValueError, match="was applied instead"):
        check_plan({"steering": {"plan": "another"}}, plans["base"])

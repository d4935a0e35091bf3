from __future__ import annotations

from typing import Any

import pytest

from steer_server.errors import EvaluationError
from steer_server.evaluation.client import OfferedAxis, ServerInfo
from steer_server.evaluation.frozen.asking import choose_best
from steer_server.evaluation.frozen.ways import (
    ADAPTERS,
    ALIGN_PRO,
    NOISE,
    PLAIN,
    PROMPTED,
    Aim,
    parse_statements,
    plan_aim,
    statement_of,
)
from steer_server.steering.denoising import VARIANTS

INFO = ServerInfo(
    "http://test", "tiny", (), (), (OfferedAxis("kind", "values@1.0.0"),), prompters=("brief", "kind")
)


def aim(value: str = "kind", info: ServerInfo = INFO, **options: Any) -> Aim:
    return plan_aim(value, "Be kind.", info, **{"is_upstream": False, "candidates": 5, **options})


def steering(found: Aim) -> dict[str, Any]:
    return {way.name: way.setting.steering()["steering"] for way in found.ways}


def test_all_ways_that_the_server_has_are_taken() -> None:
    found = steering(aim())
    assert found["best of 5"] == {"method": "best_of_n", "reward_heads": ["kind"], "options": {"n": 5}}
    assert found[ADAPTERS] == {"values": {"kind": 1.0}}
    assert found[ALIGN_PRO] == {"method": "align_pro", "options": {"prompter": "kind"}}
    for variant in VARIANTS:
        told, by_axis = found[f"diffpo, statement, {variant}"], found[f"diffpo, axis, {variant}"]
        assert told["options"] == {"variant": variant, "statement": "Be kind."} and "values" not in told
        assert by_axis == {"method": "diffpo", "values": {"kind": 1.0}, "options": {"variant": variant}}
    assert [way.statement for way in aim().ways if way.statement] == ["Be kind."]
    assert not aim().missing


def test_of_a_value_without_axis_and_prompter_the_other_ways_are_left() -> None:
    found = aim("bold")
    assert set(found.missing) == {ADAPTERS, ALIGN_PRO}
    assert not [name for name in steering(found) if "axis" in name]


def test_of_an_upstream_the_client_chooses_the_best_answer_itself() -> None:
    found = aim(is_upstream=True)
    (best,) = [way for way in found.ways if way.name == "best of 5"]
    assert best.ask is choose_best and best.method == "none"
    assert set(found.missing) == {ADAPTERS} and "diffpo, axis, spans" in steering(found)


def test_ways_are_narrowed_by_name_and_the_plain_ones_stay() -> None:
    assert list(steering(aim(only=(PROMPTED,)))) == [PLAIN, NOISE, PROMPTED]
    with pytest.raises(EvaluationError, match="no way prompt; there are"):
        aim(only=("prompt",))


@pytest.mark.parametrize("name", ["base", PLAIN, "best of 5"])
def test_a_further_way_may_not_have_the_name_of_another(name: str) -> None:
    with pytest.raises(EvaluationError, match=f"the name {name}"):
        aim(settings=(f'{name}={{"method": "none"}}',))


def test_a_value_needs_words() -> None:
    given = parse_statements(["kind=Be kind = good.", "helpful= Help. "])
    assert given == {"kind": "Be kind = good.", "helpful": "Help."}
    assert statement_of("helpful", given) == "Help." and statement_of("harmless", given)
    with pytest.raises(EvaluationError, match="--statement 'bold="):
        statement_of("bold", given)
    with pytest.raises(EvaluationError, match="VALUE=TEXT"):
        parse_statements(["kind="])

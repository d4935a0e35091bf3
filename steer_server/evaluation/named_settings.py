"""Settings that a command compares: given as `NAME=JSON`, or made of what the server offers.

JSON is a whole `steering` object. The server is asked for the plan of each before anything is measured, so a
wrong name ends the command at once instead of failing every request.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from steer_server.errors import EvaluationError
from steer_server.evaluation.answers import Setting
from steer_server.evaluation.client import PLAN_PATH, RequestFailed, ServerClient, ServerInfo

BASE = Setting("base")


@dataclass(frozen=True)
class GivenSetting(Setting):
    """A setting whose `steering` object is sent as it was given."""

    steering_json: str = ""

    def steering(self) -> dict[str, Any]:
        return {"steering": json.loads(self.steering_json)}


def parse_setting(text: str) -> Setting:
    """A setting from `NAME=JSON`, such as `careful={"values": {"harmless": 1}}`.

    Raises: EvaluationError when there is no name or the rest is not a JSON object.
    """
    name, _, given = text.partition("=")
    try:
        steering = json.loads(given)
    except ValueError as error:
        raise EvaluationError(f"--setting {text}: not NAME=JSON: {error}") from error
    if not name.strip() or not isinstance(steering, dict):
        raise EvaluationError(f"--setting {text}: needs a name, `=` and a JSON object")
    return GivenSetting(name.strip(), steering_json=json.dumps(steering, sort_keys=True))


def parse_settings(texts: Iterable[str], taken: Sequence[str] = ()) -> list[Setting]:
    """Settings in the given order.

    Args:
        taken: names of the report's own rows.

    Raises: EvaluationError also for a name that occurs twice or is taken.
    """
    settings = [parse_setting(text) for text in texts]
    names = [*taken, *(setting.name for setting in settings)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise EvaluationError(f"two settings would have the name {', '.join(twice)}")
    return settings


def axes_alone(info: ServerInfo) -> list[Setting]:
    """One setting per value axis: the whole preference vector on it, before the operator's floors."""
    return [Setting.of_values(axis.id, {axis.id: 1.0}) for axis in info.axes]


def blended_axes(info: ServerInfo) -> list[Setting]:
    """Half and half of the first two value axes that one adapter offers; none when no adapter has two."""
    for first in info.axes:
        second = next((a for a in info.axes if a.adapter == first.adapter and a.id != first.id), None)
        if second:
            name = f"{first.id} + {second.id}"
            return [Setting.of_values(name, {first.id: 0.5, second.id: 0.5})]
    return []


def cultures_alone(info: ServerInfo) -> list[Setting]:
    """Every culture at weight 1."""
    return [Setting.of_blend(culture.id, {culture.id: 1.0}) for culture in info.cultures]


def blended_cultures(info: ServerInfo, num_cultures: int = 3) -> list[Setting]:
    """An even blend of the first cultures, weights that sum to 1; none of fewer than two cultures."""
    chosen = [culture.id for culture in info.cultures[:num_cultures]]
    if len(chosen) < 2:
        return []
    return [Setting.of_blend(" + ".join(chosen), {culture: 1 / len(chosen) for culture in chosen})]


async def read_plans(client: ServerClient, settings: Sequence[Setting]) -> dict[str, dict[str, Any]]:
    """What the server would do for each setting, by name.

    Raises: EvaluationError naming the setting that it refuses.
    """
    plans = {}
    for setting in settings:
        try:
            plans[setting.name] = await client.post(PLAN_PATH, setting.steering())
        except RequestFailed as error:
            raise EvaluationError(f"setting {setting.name!r} is refused: {error}") from error
    return plans

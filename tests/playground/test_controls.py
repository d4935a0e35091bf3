"""Every control changes the request that is sent, and none can leave what the policy allows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from tests.playground.conftest import Playground

AMBER = {"cultures": {"amber": 1}}


async def add_blue(page: Page) -> None:
    await page.get_by_label("Add a culture").select_option("blue")


async def blend_two(page: Page) -> None:
    await add_blue(page)
    await page.get_by_label("Blend of Amber, Blue").fill("0.2")


async def blend_three(page: Page) -> None:
    await add_blue(page)
    await page.get_by_label("Add a culture").select_option("coral")
    point = page.get_by_role("slider", name="Blend of Amber, Blue, Coral")
    await point.focus()
    for _ in range(10):
        await page.keyboard.press("ArrowUp")


async def drag_to_a_corner(page: Page) -> None:
    await add_blue(page)
    await page.get_by_label("Add a culture").select_option("coral")
    box = await page.locator(".ternary").bounding_box()
    assert box is not None
    await page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    await page.mouse.down()
    await page.mouse.move(box["x"] + 2, box["y"] + box["height"] - 2, steps=4)
    await page.mouse.up()


async def weigh(page: Page) -> None:
    await page.get_by_label("Amber", exact=True).fill("0.4")


async def weigh_exactly(page: Page) -> None:
    field = page.get_by_label("Amber, exact")
    await field.fill("0.123")
    await field.press("Enter")


async def use_values(page: Page) -> None:
    await page.get_by_label("Steer by value axes").check()
    await page.get_by_label("Helpful", exact=True).fill("0.6")


async def strengthen(page: Page) -> None:
    await page.get_by_label("Strength", exact=True).fill("0.5")


async def score(page: Page) -> None:
    await page.get_by_label("Warm", exact=True).check()


async def choose_the_best(page: Page) -> None:
    await score(page)
    await page.get_by_label("Brief", exact=True).check()
    await page.get_by_label("Best of n").check()
    await page.get_by_label("Answers drawn", exact=True).fill("3")
    await page.get_by_label("Weight of Warm", exact=True).fill("0.5")
    await page.get_by_text("Generation", exact=True).click()
    await page.get_by_label("Temperature").fill("1")


async def rewrite(page: Page) -> None:
    await page.get_by_label("Rewritten prompt").check()
    await page.get_by_label("Prompter").select_option("gentle")


async def denoise(page: Page) -> None:
    await page.get_by_label("Denoised draft").check()
    await page.get_by_label("Loops at most", exact=True).fill("1")
    await page.get_by_label("Candidates for each place", exact=True).fill("2")
    await page.get_by_label("Guidance", exact=True).fill("1.5")
    await page.get_by_label("What is drawn anew").select_option("spans")
    await page.get_by_label("Draft, in place").fill("w01 w02.")


async def state_values(page: Page) -> None:
    await denoise(page)
    await page.get_by_label("Value statement").fill("Be kind.")
    await page.get_by_label("Loops at most", exact=True).fill("2")


async def preset(page: Page) -> None:
    await page.get_by_text("Presets", exact=True).click()
    await page.get_by_role("button", name="Load gentle").click()


STEERING: dict[str, tuple[Callable[[Page], Awaitable[None]], dict[str, Any]]] = {
    "a second culture": (add_blue, {"cultures": {"amber": 1, "blue": 1}}),
    "the two-ended slider": (blend_two, {"cultures": {"amber": 1, "blue": 0.25}}),
    "the triangle, by keys": (blend_three, {"cultures": {"amber": 1, "blue": 0.437, "coral": 0.437}}),
    "the triangle, by hand": (drag_to_a_corner, {"cultures": {"amber": 0, "blue": 1, "coral": 0}}),
    "a weight": (weigh, {"cultures": {"amber": 0.4}}),
    "an exact weight": (weigh_exactly, {"cultures": {"amber": 0.123}}),
    "value axes": (use_values, {**AMBER, "values": {"helpful": 0.6, "harmless": 0.4}}),
    "strength": (strengthen, {**AMBER, "strength": 0.5}),
    "a reward head": (score, {**AMBER, "reward_heads": ["warm"]}),
    "best of n": (
        choose_the_best,
        {
            **AMBER,
            "method": "best_of_n",
            "reward_heads": ["warm", "brief"],
            "options": {"n": 3, "weights": {"warm": 0.5, "brief": 1}},
        },
    ),
    "a prompter": (rewrite, {"method": "align_pro", "options": {"prompter": "gentle"}}),
    "denoising": (
        denoise,
        {
            **AMBER,
            "method": "diffpo",
            "options": {
                "loops": 1,
                "candidates": 2,
                "guidance": 1.5,
                "variant": "spans",
                "draft": "w01 w02.",
            },
        },
    ),
    "a value statement": (
        state_values,
        {
            "method": "diffpo",
            "options": {
                "loops": 2,
                "candidates": 2,
                "variant": "spans",
                "statement": "Be kind.",
                "draft": "w01 w02.",
            },
        },
    ),
    "a preset": (preset, {"values": {"helpful": 0.5, "harmless": 0.5}, "strength": 0.5}),
}


@pytest.mark.parametrize("control", STEERING)
async def test_a_control_changes_what_is_sent(control: str, playground: Playground) -> None:
    turn, expected = STEERING[control]
    await turn(playground.page)
    steering = await playground.steering()
    assert steering == expected
    error = playground.answer("B").get_by_role("alert")
    assert await error.count() == 0, await error.inner_text()


async def test_generation_is_the_same_for_both_sides(playground: Playground) -> None:
    page = playground.page
    await page.get_by_text("Generation", exact=True).click()
    for label, value in {"Most tokens": "5", "Temperature": "0.5", "Seed": "7"}.items():
        await page.get_by_label(label).fill(value)
    await page.get_by_label("System prompt").fill("Be brief.")
    for request in await playground.ask("Hello?"):
        assert (request["max_tokens"], request["temperature"], request["seed"]) == (5, 0.5, 7)
        assert [m["content"] for m in request["messages"]] == ["Be brief.", "Hello?"]


async def test_a_floor_of_the_policy_stops_the_slider(playground: Playground) -> None:
    page = playground.page
    await page.get_by_label("Steer by value axes").check()
    slider = page.get_by_label("Harmless", exact=True)
    await slider.fill("0")
    await expect(slider).to_have_value("0.2")
    await expect(slider).to_have_accessible_description("at least 0.20 by the server’s policy")
    await page.get_by_label("Helpful", exact=True).fill("1")
    assert (await playground.steering())["values"] == {"helpful": 0.8, "harmless": 0.2}


async def test_a_limit_of_the_policy_holds_for_the_exact_number_too(playground: Playground) -> None:
    field = playground.page.get_by_label("Strength, exact")
    await field.fill("9")
    await field.press("Enter")
    await expect(field).to_have_value("2")
    assert (await playground.steering())["strength"] == 2


async def test_a_country_on_the_map_adds_its_culture_and_takes_it_away(playground: Playground) -> None:
    page = playground.page
    # Cultures that are made for tests report Antarctica's values, which is not drawn.
    await expect(page.locator(".map")).to_have_count(0)
    countries = {"amber": ["BRA", "SGP"], "blue": ["CHN"]}

    async def with_countries(route: Route) -> None:
        known = await (await route.fetch()).json()
        for culture in known["cultures"]:
            culture["countries"] = countries.get(culture["id"], [])
        await route.fulfill(json=known)

    await page.route("**/v1/steering", with_countries)
    await page.reload()
    country = page.locator(".map [data-culture=blue]")
    await expect(country.locator("title")).to_have_text("Blue: random weights, blue")
    await country.click()
    assert (await playground.steering())["cultures"] == {"amber": 1, "blue": 1}
    await country.click()
    assert (await playground.steering())["cultures"] == {"amber": 1}


async def test_own_presets_stay_in_this_browser(playground: Playground) -> None:
    page = playground.page
    await page.get_by_label("Amber", exact=True).fill("0.7")
    await page.get_by_label("Warm", exact=True).check()
    await page.get_by_text("Presets", exact=True).click()
    await page.get_by_label("Name of the preset").fill("mine")
    await page.get_by_role("button", name="Save", exact=True).click()
    await page.reload()
    await page.get_by_text("Presets", exact=True).click()
    await page.get_by_role("button", name="Load mine").click()
    assert await playground.steering() == {"cultures": {"amber": 0.7}, "reward_heads": ["warm"]}
    await page.get_by_role("button", name="Forget mine").click()
    await expect(page.get_by_role("button", name="Load mine")).to_have_count(0)
    assert await page.evaluate("localStorage.getItem('steer-playground-presets')") == "[]"


async def test_a_denied_adapter_is_not_offered(playground: Playground) -> None:
    offered = await playground.page.get_by_label("Add a culture").locator("option").all_inner_texts()
    assert "Blue" in offered and "Forbidden" not in offered


async def test_light_and_dark_follow_the_system_until_they_are_chosen(playground: Playground) -> None:
    page = playground.page

    async def ground() -> str:
        found: str = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        return found

    light = await ground()
    await page.emulate_media(color_scheme="dark")
    dark = await ground()
    assert dark != light
    await page.get_by_role("button", name="Colours: as the system").click()
    assert await ground() == light
    await page.reload()
    assert await ground() == light
    await page.get_by_role("button", name="Colours: light").click()
    await page.emulate_media(color_scheme="light")
    assert await ground() == dark

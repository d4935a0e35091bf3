"""Checked by axe-core on every page, wide and light, narrow and dark; and reached by keyboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.playground.conftest import DESKTOP, PHONE, Playground

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


async def faults(page: Page, node_modules: Path) -> list[Any]:
    """What axe-core finds, as rule, impact and where."""
    # Not as a script of the page, which its policy forbids.
    await page.evaluate((node_modules / "axe-core" / "axe.min.js").read_text())
    found = await page.evaluate("tags => axe.run(document, {runOnly: {type: 'tag', values: tags}})", RULES)
    return [(v["id"], v["impact"], [node["target"] for node in v["nodes"]]) for v in found["violations"]]


@pytest.mark.parametrize(
    "size, scheme", [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"], indirect=["size"]
)
async def test_axe_finds_no_fault_on_any_page(
    scheme: Any, playground: Playground, node_modules: Path
) -> None:
    page = playground.page
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    toggle = page.get_by_role("button", name="Adjust the steering")
    if await toggle.is_visible():
        await toggle.click()
    for culture in ("blue", "coral"):
        await page.get_by_label("Add a culture").select_option(culture)
    await page.get_by_label("Steer by value axes").check()
    await page.get_by_label("Warm", exact=True).check()
    for fold in ("Presets", "Generation", "As code"):
        await page.get_by_text(fold, exact=True).click()
    await playground.ask()
    assert not await faults(page, node_modules)
    await page.get_by_role("link", name="Sweep").click()
    await page.get_by_role("button", name="Run the sweep").click()
    await expect(page.get_by_text("7 of 7 answered")).to_be_visible()
    assert not await faults(page, node_modules)
    await page.get_by_role("link", name="Adapters", exact=True).click()
    await page.get_by_role("button", name="Quarantine amber@1.0.0").click()
    await page.get_by_role("button", name="Key").click()
    await expect(page.locator("canvas").first).to_be_visible()
    assert not await faults(page, node_modules)


async def test_a_question_is_asked_by_keyboard_alone(playground: Playground) -> None:
    page = playground.page
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the page")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_be_focused()
    for _ in range(60):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement.id") == "prompt":
            break
    await page.keyboard.type("Hello?")
    await page.keyboard.press("Control+Enter")
    await expect(playground.answer("B").locator(".answer-text")).to_have_attribute("data-status", "done")


async def test_whoever_wants_no_motion_sees_none(playground: Playground) -> None:
    await playground.page.emulate_media(reduced_motion="reduce")
    button = playground.page.get_by_role("button", name="Key")
    assert await button.evaluate("node => getComputedStyle(node).transitionDuration") == "0s"

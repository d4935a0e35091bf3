"""A sweep moves one slider from end to end, draws what it finds, and lets it be saved."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from playwright.async_api import expect

from tests.playground.conftest import QUESTION, Playground


async def swept(
    playground: Playground, axis: str, num_points: int, ends: tuple[str, str] | None = None
) -> list[dict[str, Any]]:
    """What each point's request steers by. Args: ends: other than those of the slider."""
    page = playground.page
    before = len(playground.sent())
    await page.get_by_label("Your message").fill(QUESTION)
    await page.get_by_label("Moves").select_option(label=axis)
    for label, end in zip(("From", "To"), ends or (), strict=False):
        await page.get_by_label(label, exact=True).fill(end)
    await page.get_by_label("Points", exact=True).fill(str(num_points))
    await page.get_by_role("button", name="Run the sweep").click()
    await expect(page.get_by_text(f"{num_points} of {num_points} answered")).to_be_visible()
    return [request["steering"] for request in playground.sent()[before:]]


async def test_every_point_is_asked_with_its_own_weight_and_all_are_shown(playground: Playground) -> None:
    await playground.open("sweep")
    await playground.page.get_by_label("Warm", exact=True).check()
    asked = await swept(playground, "Strength", 5)
    assert [one.get("strength", 1) for one in asked] == [0, 0.5, 1, 1.5, 2]
    assert all(one["cultures"] == {"amber": 1} and one["reward_heads"] == ["warm"] for one in asked)
    rows = playground.page.locator(".points > li")
    await expect(rows).to_have_count(5)
    await expect(rows.nth(1)).to_contain_text("0.50")
    await expect(rows.nth(1).locator("mark").first).to_be_visible()
    assert "Warm" in await playground.page.locator(".u-legend").inner_text()
    drawn = "node => new Set(node.getContext('2d').getImageData(0, 0, node.width, node.height).data).size"
    assert await playground.page.locator("canvas").evaluate(drawn) > 3


async def test_a_blend_of_two_is_swept_from_the_one_to_the_other(playground: Playground) -> None:
    await playground.open("sweep")
    await playground.page.get_by_label("Add a culture").select_option("blue")
    asked = await swept(playground, "Amber → Blue", 11)
    assert [one["cultures"].get("blue") for one in asked] == [i / 10 for i in range(11)]
    assert [one["cultures"]["amber"] for one in asked] == [round(1 - i / 10, 3) for i in range(11)]


async def test_the_range_of_a_sweep_can_be_narrowed(playground: Playground) -> None:
    await playground.open("sweep")
    asked = await swept(playground, "Strength", 5, ("0.5", "1.5"))
    assert [one.get("strength", 1) for one in asked] == [0.5, 0.75, 1, 1.25, 1.5]


async def test_a_point_that_fails_says_why_and_the_others_go_on(playground: Playground) -> None:
    playground.expects_refusals = True
    await playground.open("sweep")
    page = playground.page
    await page.get_by_label("Denoised draft").check()
    await page.get_by_label("Guidance", exact=True).fill("1.5")
    await page.get_by_label("Candidates for each place", exact=True).fill("1")
    await page.get_by_label("Loops at most", exact=True).fill("1")
    await swept(playground, "Strength", 5)
    failed = page.locator(".points .error")
    await expect(failed).to_have_count(2)
    await expect(failed.first).to_contain_text("Guidance 1.5 at strength 1.5 is above the strength of 2")


async def test_a_sweep_is_saved_as_a_table_and_as_a_picture(playground: Playground, tmp_path: Path) -> None:
    await playground.open("sweep")
    page = playground.page
    await page.get_by_label("Warm", exact=True).check()
    await swept(playground, "Weight of Amber", 5)
    async with page.expect_download() as saving:
        await page.get_by_role("button", name="Save as CSV").click()
    saved = await saving.value
    assert saved.suggested_filename == "sweep-culture-amber.csv"
    rows = list(csv.DictReader(io.StringIO(Path(await saved.path()).read_text())))
    assert [float(row["amber"]) for row in rows] == [0, 0.25, 0.5, 0.75, 1]
    assert all(row["answer"].startswith("w") and 0 <= float(row["warm"]) <= 1 for row in rows)
    assert [row["error"] for row in rows] == [""] * 5 and float(rows[0]["changed_words"]) == 0
    assert len({row["plan"] for row in rows}) == 5
    async with page.expect_download() as saving:
        await page.get_by_role("button", name="Save as PNG").click()
    picture = Path(await (await saving.value).path()).read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 5_000


async def test_the_plain_model_has_nothing_to_sweep(playground: Playground) -> None:
    await playground.open("sweep")
    await playground.page.get_by_label("Plain", exact=True).check()
    await expect(playground.page.get_by_text("This setting has nothing to move.")).to_be_visible()

"""The operator's page: what is there, acts on it, uploads with what the server finds, and latency."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect
from pydantic import SecretStr

from steer_server.catalogue.base_model import BaseModel
from steer_server.settings import Settings
from tests.playground.conftest import DESKTOP, Playground, packed_adapter
from tests.support.adapters import random_adapter
from tests.support.administration import push, state
from tests.support.servers import Running, app_server


@pytest.fixture
def package(tmp_path: Path, base: BaseModel) -> Callable[..., Path]:
    return partial(packed_adapter, tmp_path, base)


async def drop(playground: Playground, path: Path) -> None:
    transfer = await playground.page.evaluate_handle(
        """([name, content]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name));
            return transfer;
        }""",
        [path.name, base64.b64encode(path.read_bytes()).decode()],
    )
    await playground.page.locator(".drop").dispatch_event("drop", {"dataTransfer": transfer})


async def test_every_version_is_listed_with_its_state_and_why_it_was_refused(playground: Playground) -> None:
    await playground.open("adapters")
    await expect(playground.group("amber")).to_contain_text("Active")
    broken = playground.group("broken")
    await expect(broken).to_contain_text("Quarantined")
    await expect(broken).to_contain_text("Reason: size_mismatch")


async def test_a_package_is_dropped_checked_and_served(
    playground: Playground, package: Callable[..., Path]
) -> None:
    page = playground.page
    await playground.open("adapters")
    await drop(playground, package("grape"))
    await expect(page.get_by_text("grape@1.0.0 is active.")).to_be_visible()
    for step in ("Files stored", "Manifest, files and tensors checked", "Probed in the engine", "Activated"):
        await expect(page.locator(".steps")).to_contain_text(step)
    await expect(playground.group("grape")).to_contain_text("Active")
    await page.get_by_role("link", name="Chat").click()
    await page.get_by_label("Add a culture").select_option("grape")
    assert "grape" in (await playground.steering())["cultures"]


async def test_a_package_that_is_refused_says_why(playground: Playground, tmp_path: Path) -> None:
    playground.expects_refusals = True
    await playground.open("adapters")
    (tmp_path / "bad.tar.gz").write_bytes(b"no archive")
    await playground.upload(tmp_path / "bad.tar.gz")
    refused = playground.page.get_by_role("region", name="Add a package")
    await expect(refused.get_by_role("alert")).to_contain_text("adapter_refused")
    await expect(refused.get_by_role("heading", name="Refused")).to_be_visible()


async def test_packages_that_come_while_another_is_on_its_way_are_taken_after_it(
    playground: Playground, package: Callable[..., Path]
) -> None:
    page = playground.page
    await playground.open("adapters")
    # What follows a package's arrival takes a while; the next ones come in it.
    await playground.slow_down("/v1/audit?limit=20")
    await playground.upload(package("lilac", "1.0.0"), package("lilac", "2.0.0"))
    await drop(playground, package("lilac", "3.0.0"))
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        await expect(page.get_by_text(f"lilac@{version} is active.")).to_be_visible()
    assert (await state(playground.site, "lilac"))["3.0.0"] == "active"


async def test_a_version_is_quarantined_released_activated_rolled_back_and_removed(
    playground: Playground, package: Callable[..., Path]
) -> None:
    page, site = playground.page, playground.site
    await playground.open("adapters")
    for version in ("1.0.0", "2.0.0"):
        await playground.upload(package("hazel", version))
        await expect(page.get_by_text(f"hazel@{version} is active.")).to_be_visible()
    hazel = playground.group("hazel")

    async def becomes(**expected: str) -> None:
        for version, name in expected.items():
            line = hazel.locator("li", has_text=version.replace("v", "") + ".0.0")
            await expect(line.locator(".state")).to_have_text(name)

    async def press(act: str, title: str) -> None:
        await hazel.get_by_role("button", name=f"{act} {title}").click()

    await becomes(v1="Retired", v2="Active")
    await press("Roll back", "hazel")
    await becomes(v1="Active", v2="Retired")
    await press("Activate", "hazel@2.0.0")
    await becomes(v1="Retired", v2="Active")
    await press("Quarantine", "hazel@2.0.0")
    await hazel.get_by_label("Why, for people").fill("insults people")
    await hazel.get_by_role("button", name="Quarantine", exact=True).click()
    await becomes(v2="Quarantined")
    await expect(hazel).to_contain_text("insults people")
    assert (await state(site, "hazel"))["2.0.0"] == "quarantined"
    await press("Release", "hazel@2.0.0")
    await becomes(v2="Ready")
    await press("Remove", "hazel@2.0.0")
    await hazel.get_by_role("button", name="Cancel").click()
    await press("Remove", "hazel@2.0.0")
    await hazel.get_by_role("button", name="Remove", exact=True).click()
    await expect(hazel).not_to_contain_text("2.0.0")
    assert "2.0.0" not in await state(site, "hazel")


async def test_a_culture_that_was_quarantined_leaves_the_controls(
    playground: Playground, package: Callable[..., Path]
) -> None:
    page = playground.page
    await playground.open("adapters")
    await playground.upload(package("ivory"))
    await expect(page.get_by_text("ivory@1.0.0 is active.")).to_be_visible()
    await page.get_by_role("link", name="Chat").click()
    await page.get_by_label("Add a culture").select_option("ivory")
    # A plan that still named it would be refused.
    await playground.slow_down("/v1/steering")
    await page.get_by_role("link", name="Adapters", exact=True).click()
    await playground.group("ivory").get_by_role("button", name="Quarantine ivory@1.0.0").click()
    await playground.group("ivory").get_by_role("button", name="Quarantine", exact=True).click()
    await expect(playground.group("ivory").locator(".state")).to_have_text("Quarantined")
    await page.get_by_role("link", name="Chat").click()
    assert await playground.steering() == {"cultures": {"amber": 1}}


async def test_latency_is_drawn_from_the_servers_metrics(playground: Playground) -> None:
    await playground.ask()
    await playground.open("adapters")
    latency = playground.page.get_by_role("region", name="Latency")
    for chart in ("Time to first token", "Each further token", "Whole answer", "Wait for slots", "Planning"):
        await expect(latency.locator("figure", has_text=chart)).to_contain_text("median")
    await expect(latency).to_contain_text("adapters active")
    await expect(latency.locator("canvas")).to_have_count(5)


async def test_what_the_server_does_not_measure_is_said(playground: Playground) -> None:
    await playground.page.route(
        "**/metrics", lambda route: route.fulfill(body='steer_plan_seconds_bucket{le="+Inf"} 0\n')
    )
    await playground.open("adapters")
    latency = playground.page.get_by_role("region", name="Latency")
    await expect(latency).to_contain_text("This server does not export steer_time_to_first_token_seconds")
    await expect(latency.locator("figure", has_text="Planning")).to_contain_text("No requests in sight yet.")


@pytest.fixture
async def locked(base: BaseModel, tmp_path: Path) -> AsyncIterator[Running]:
    """A server that asks for keys."""
    settings = Settings(
        model=base.path,
        served_model_name="fake",
        bank_rank=8,
        data=tmp_path / "data",
        api_key=SecretStr("an-application"),
        admin_key=SecretStr("an-operator"),
    )
    async with app_server(settings, key="an-operator") as running:
        random_adapter(tmp_path / "made", "jade", base)
        await push(running, tmp_path / "made" / "jade")
        yield running


async def test_keys_open_what_they_may_and_are_forgotten_with_the_tab(
    locked: Running, browser: Browser
) -> None:
    context = await browser.new_context(viewport={"width": DESKTOP[0], "height": DESKTOP[1]})
    playground = Playground(await context.new_page(), locked, expects_refusals=True)
    playground.watch()
    page = playground.page

    async def give(key: str) -> None:
        await page.get_by_role("button", name="Key").click()
        await page.get_by_label("API key").fill(key)
        await page.get_by_role("button", name="Use").click()

    await playground.open()
    await expect(page.get_by_role("alert")).to_contain_text("Give an API key")
    await give("an-application")
    await expect(page.locator(".preview")).to_contain_text("jade@1.0.0")
    await page.get_by_role("link", name="Adapters", exact=True).click()
    jade = playground.group("jade")
    await jade.get_by_role("button", name="Deactivate jade").click()
    await expect(jade.get_by_role("alert")).to_contain_text("This needs an operator key.")
    await give("an-operator")
    await jade.get_by_role("button", name="Deactivate jade").click()
    await expect(jade.locator(".state")).to_have_text("Retired")
    assert "an-operator" not in await page.evaluate("JSON.stringify(localStorage)")
    assert await page.evaluate("sessionStorage.getItem('steer-playground-key')") == "an-operator"
    assert not any("an-operator" in request.url for request in playground.requests)
    other = await context.new_page()
    await other.goto(f"{locked.url}/playground/")
    assert await other.evaluate("sessionStorage.getItem('steer-playground-key')") is None
    await context.close()
    assert not playground.complaints

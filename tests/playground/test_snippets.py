"""The commands to copy send exactly what the page would send."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import pytest
from playwright.async_api import expect

from tests.playground.conftest import Playground

PROMPT = 'What\'s “right” for $HOME & `you`? It’s\n\\ 1 % of "all"'


async def run(*command: str) -> str:
    environment = {**os.environ, "STEER_KEY": "unused"}
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment
    )
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return out.decode()


@pytest.mark.parametrize("language", ["curl", "Python"])
@pytest.mark.parametrize("has_key", [False, True])
async def test_a_command_sends_what_the_page_sends(
    language: str, has_key: bool, playground: Playground
) -> None:
    page = playground.page
    if has_key:
        await page.get_by_role("button", name="Key").click()
        await page.get_by_label("API key").fill("a-secret")
        await page.get_by_role("button", name="Use").click()
    await page.get_by_label("Add a culture").select_option("blue")
    await page.get_by_label("Warm", exact=True).check()
    _, sent = await playground.ask(PROMPT)
    await page.get_by_text("As code", exact=True).click()
    await page.get_by_role("button", name=language).click()
    await page.get_by_role("button", name="Copy").click()
    await expect(page.get_by_role("button", name="Copied")).to_be_visible()
    command = await page.evaluate("navigator.clipboard.readText()")
    assert command == await page.get_by_test_id("code").inner_text()
    assert "a-secret" not in command and ("STEER_KEY" in command) == has_key
    assert playground.site.fake is not None
    playground.site.fake.asked.clear()
    printed = await (run("bash", "-c", command) if language == "curl" else run(sys.executable, "-c", command))
    (body, plan) = playground.site.fake.asked[0]
    assert {key: body[key] for key in ("model", "messages", "max_tokens", "temperature")} == {
        key: sent[key] for key in ("model", "messages", "max_tokens", "temperature")
    }
    assert {gate.name: gate.weight for gate in plan.adapters} == sent["steering"]["cultures"]
    assert "warm" in (applied(printed)["rewards"]["heads"] if language == "curl" else printed)


def applied(answer: str) -> Any:
    return json.loads(answer)["steering"]

"""The page in a real browser: on the app with a FakeEngine behind a real socket, and on the real server."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import (
    Browser,
    ConsoleMessage,
    Error,
    Locator,
    Page,
    Request,
    Route,
    async_playwright,
    expect,
)

import steer_server.playground
from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.manifest import PrompterInfo
from steer_server.catalogue.package import pack
from tests.support.adapters import TINY, random_adapter, tiny_base_model
from tests.support.servers import Running, fake_server

SOURCES = Path(steer_server.playground.__file__).parent
CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_MS = 30_000
"""For a machine that does other things too."""
LIVE_WAIT_MS = 180_000
TOKEN_SECONDS = 0.004
DESKTOP = (1440, 900)
PHONE = (390, 844)
QUESTION = "How important is religion in your life?"


@dataclass
class Playground:
    """A page, everything that it asked for, and everything that the browser complained about."""

    page: Page
    site: Running
    requests: list[Request] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    expects_refusals: bool = False
    """Chromium logs every response that is an error."""

    async def open(self, page: str = "chat") -> None:
        await self.page.goto(f"{self.site.url}/playground/#/{page}")

    def watch(self) -> None:
        self.page.on("request", lambda request: self.requests.append(request))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._on_console)

    def _on_console(self, message: ConsoleMessage) -> None:
        is_refusal = message.text.startswith("Failed to load resource: the server responded")
        if message.type in ("error", "warning") and not (is_refusal and self.expects_refusals):
            self.complaints.append(f"{message.text} ({message.location['url']})")

    def sent(self, path: str = "/v1/chat/completions") -> list[Any]:
        """The bodies of the page's POSTs to a route, oldest first."""
        return [
            request.post_data_json
            for request in self.requests
            if request.method == "POST" and request.url.removeprefix(self.site.url).split("?")[0] == path
        ]

    async def ask(self, prompt: str = QUESTION) -> tuple[Any, Any]:
        """Asks both, waits for the answers, and gives the two requests."""
        num_before = len(self.sent())
        await self.page.get_by_label("Your message").fill(prompt)
        await self.page.get_by_role("button", name="Ask both").click()
        await self.page.get_by_role("button", name="Ask both").wait_for()
        plain, steered = self.sent()[num_before:]
        return plain, steered

    async def steering(self) -> Any:
        """The steered side's `steering`, as it is sent now."""
        _, steered = await self.ask()
        return steered["steering"]

    def answer(self, side: str) -> Locator:
        return self.page.get_by_role("article", name=f"Answer {side}").last

    def group(self, name: str) -> Locator:
        """An adapter's versions on the operator's page."""
        return self.page.get_by_role("region", name=name, exact=True)

    async def upload(self, *paths: Path) -> None:
        await self.page.get_by_label("Choose files").set_input_files(paths)

    async def slow_down(self, path: str, seconds: float = 0.5) -> None:
        """Lets the page wait for a GET."""

        async def wait(route: Route) -> None:
            await asyncio.sleep(seconds)
            await route.continue_()

        await self.page.route(f"{self.site.url}{path}", wait)


def packed_adapter(parent: Path, base: BaseModel, name: str, version: str = "1.0.0") -> Path:
    folder = parent / version
    random_adapter(folder, name, base, version=version, seed=len(version) + sum(map(ord, version)))
    (folder / f"{name}.tar.gz").write_bytes(b"".join(pack(folder / name)))
    return folder / f"{name}.tar.gz"


@pytest.fixture(scope="session")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """A server of the page's own, because operators act on it."""
    folder = tmp_path_factory.mktemp("playground")
    base = tiny_base_model(folder / TINY)
    prompter = PrompterInfo(id="gentle", template_version=1, aim="helpful answers")
    random_adapter(folder / "adapters", "gentle-prompter", base, prompter=prompter)
    async with fake_server(folder, folder / TINY, token_seconds=TOKEN_SECONDS) as running:
        yield running


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base_model(tmp_path_factory.mktemp("model") / TINY)


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs chromium: make chromium")
    expect.set_options(timeout=WAIT_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=CHROMIUM_OPTIONS)
        yield browser
        await browser.close()


@pytest.fixture(params=[DESKTOP], ids=["desktop"])
def size(request: pytest.FixtureRequest) -> tuple[int, int]:
    found: tuple[int, int] = request.param
    return found


@asynccontextmanager
async def opened(browser: Browser, site: Running, size: tuple[int, int]) -> AsyncIterator[Playground]:
    """Chat, with the plain model on the left and the first culture on the right. Nothing may be asked for
    elsewhere, and the browser may complain of nothing."""
    context = await browser.new_context(
        viewport={"width": size[0], "height": size[1]}, permissions=["clipboard-read", "clipboard-write"]
    )
    context.set_default_timeout(WAIT_MS)
    playground = Playground(await context.new_page(), site)
    playground.watch()
    await playground.open()
    yield playground
    elsewhere = [r.url for r in playground.requests if not r.url.startswith((f"{site.url}/", "blob:"))]
    complaints = list(playground.complaints)
    try:
        await context.close()
    except Error as error:
        complaints.append(str(error))
    assert not elsewhere and not complaints


@pytest.fixture
async def playground(browser: Browser, site: Running, size: tuple[int, int]) -> AsyncIterator[Playground]:
    async with opened(browser, site, size) as playground:
        yield playground


@pytest.fixture
async def live(browser: Browser, vllm: Running) -> AsyncIterator[Playground]:
    """The same on the real server."""
    async with opened(browser, vllm, DESKTOP) as playground:
        playground.page.set_default_timeout(LIVE_WAIT_MS)
        yield playground


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """What the sources are built with, installed if need be."""
    if shutil.which("npm") is None:
        pytest.skip("needs Node.js and npm")
    if not (SOURCES / "node_modules").exists():
        run_npm("ci", "--no-audit", "--no-fund")
    return SOURCES / "node_modules"


def run_npm(*arguments: str) -> str:
    """What npm prints. Fails the test when npm does."""
    found = subprocess.run(
        ["npm", *arguments], cwd=SOURCES, capture_output=True, text=True, timeout=600, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout

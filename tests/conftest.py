"""Fixtures: the fake server, and the real one, which is started once and shared by all tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest

from steer_server.catalogue.base_model import BaseModel
from steer_server.settings import Settings
from tests.support.adapters import TINY, random_adapter, tiny_base_model
from tests.support.postgres import PostgreSQL, running_postgresql
from tests.support.prompters import info
from tests.support.servers import NUM_SLOTS, Running, fake_server, live_server, shipped_adapters, write_extras

hypothesis.settings.register_profile(
    # How long one example takes is for no test to judge, on a machine that does other things too.
    "patient",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("patient")

LIVE_SIZE = 0.05
"""Of random adapters on the real model, so that each changes even a short greedy answer."""

VLLM_OPTIONS = (
    # Small caches: two servers share the machine.
    "--max-model-len",
    "2048",
    "--kv-cache-memory-bytes",
    "1G",
    "--enable-prompt-tokens-details",
    "--enable-auto-tool-choice",
    "--tool-call-parser",
    "hermes",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, help="how often each test that kills a server does it")


@pytest.fixture
def num_kills(pytestconfig: pytest.Config) -> int | None:
    """None: the test's own number."""
    kills: int | None = pytestconfig.getoption("kills")
    return kills


@pytest.fixture(scope="session")
async def fake(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """The app on FakeEngine."""
    folder = tmp_path_factory.mktemp("fake")
    tiny_base_model(folder / TINY)
    async with fake_server(folder, folder / TINY) as running:
        yield running


@pytest.fixture(scope="session")
def builtin() -> BaseModel:
    """The built-in model, fetched if need be."""
    return BaseModel.fetched(Settings.read())


@pytest.fixture(scope="session")
def live_adapters(tmp_path_factory: pytest.TempPathFactory, builtin: BaseModel) -> tuple[Path, list[str]]:
    """Shipped adapters and the extras of `write_extras`; and the options that name policy and presets."""
    folder = shipped_adapters(tmp_path_factory.mktemp("live") / "adapters")
    for name in ("amber", "blue"):
        random_adapter(folder, name, builtin, size=LIVE_SIZE)
    random_adapter(folder, "clarity", builtin, prompter=info("clear"))
    files = write_extras(folder, builtin)
    return folder, [f"--{option}={path}" for option, path in files.items()]


@pytest.fixture(scope="session")
def vllm_process(
    tmp_path_factory: pytest.TempPathFactory, live_adapters: tuple[Path, list[str]]
) -> Iterator[Running]:
    folder, options = live_adapters
    arguments = [*options, f"--bank-slots={NUM_SLOTS}", *VLLM_OPTIONS]
    with live_server(tmp_path_factory.mktemp("server"), folder, *arguments) as running:
        yield running


@pytest.fixture(scope="session")
async def vllm(vllm_process: Running) -> Running:
    """The real server in bf16, compiled, with fewer slots than adapters."""
    await vllm_process.read_cultures()
    return vllm_process


@pytest.fixture(scope="session")
async def vllm_float32(
    tmp_path_factory: pytest.TempPathFactory, live_adapters: tuple[Path, list[str]], vllm: Running
) -> AsyncIterator[Running]:
    """A second real server, in float32, where a batch has no rounding of its own: for exact comparisons."""
    folder, options = live_adapters
    arguments = [*options, f"--bank-slots={NUM_SLOTS}", *VLLM_OPTIONS, "--dtype", "float32"]
    with live_server(tmp_path_factory.mktemp("float32"), folder, *arguments) as running:
        await running.read_cultures()
        yield running


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A real PostgreSQL server, for `new_database()`."""
    with running_postgresql() as server:
        yield server


@pytest.fixture(params=["fake", pytest.param("vllm", marks=pytest.mark.engine)])
def server(request: pytest.FixtureRequest) -> Running:
    """Each engine in turn: what the contract suite runs on."""
    running: Running = request.getfixturevalue(request.param)
    return running


@pytest.fixture(params=["fake", pytest.param("vllm_float32", marks=pytest.mark.engine)])
def exact_server(request: pytest.FixtureRequest) -> Running:
    """Each engine where a request's text does not depend on what else is in the batch."""
    running: Running = request.getfixturevalue(request.param)
    return running

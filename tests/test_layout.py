"""The rules of the house that a reader relies on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from steer_server import errors
from steer_server.errors import (
    BodyTooLargeError,
    CapacityError,
    CatalogueError,
    EngineRefusal,
    QuarantinedError,
    SteerError,
    UnknownNameError,
    UpstreamRefusal,
)
from steer_server.metrics import Metrics
from steer_server.settings import Settings

PACKAGE = Path(errors.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def users_of(pattern: str) -> set[str]:
    found = re.compile(pattern, re.MULTILINE)
    return {str(path.relative_to(PACKAGE)) for path in MODULES if found.search(path.read_text())}


def test_only_the_engine_imports_vllm() -> None:
    users = users_of(r"^\s*(from|import) vllm\b")
    assert users and all(user.startswith("engine/") for user in users)


def test_only_settings_reads_the_environment() -> None:
    assert users_of(r"\bos\.(environ|getenv)\b") == {"settings.py"}


def test_planning_knows_no_device_network_clock_or_vllm() -> None:
    impure = users_of(r"^\s*(from|import) (torch|vllm|time|httpx|asyncio|fastapi|starlette)\b")
    assert not {user for user in impure if user.startswith("steering/")}


def test_every_module_is_named_by_its_first_line() -> None:
    unnamed = [str(path) for path in MODULES if not path.read_text().startswith('"""')]
    assert not unnamed


def subclasses(cls: type[SteerError]) -> set[type[SteerError]]:
    return {cls}.union(*(subclasses(child) for child in cls.__subclasses__()))


MAKE = {
    UnknownNameError: lambda: UnknownNameError("culture", "x", ["y"], param="p", code="unknown_culture"),
    QuarantinedError: lambda: QuarantinedError("culture", "x", "x@1.0.0", param="p"),
    EngineRefusal: lambda: EngineRefusal({"error": {"message": "m"}}, 503),
    UpstreamRefusal: lambda: UpstreamRefusal({"error": {"message": "m"}}, 429, retry_after_seconds=3),
    BodyTooLargeError: lambda: BodyTooLargeError(2**20),
    CatalogueError: lambda: CatalogueError("a", "reason", "detail"),
}


@pytest.mark.parametrize("cls", sorted(subclasses(SteerError), key=lambda c: c.__name__))
def test_every_error_has_openais_shape_and_is_in_the_drawn_tree(cls: type[SteerError]) -> None:
    error = MAKE.get(cls, lambda: cls("m"))()
    assert error.body()["error"]["message"]
    assert cls is SteerError or cls.__name__ in (errors.__doc__ or "")
    if error.http_status in (409, 429, 503):
        assert error.headers


def test_capacity_errors_say_when_to_come_back() -> None:
    assert CapacityError("full", retry_after_seconds=3).headers == {"Retry-After": "3"}


def test_every_metric_is_described_at_the_top_of_its_module() -> None:
    from prometheus_client import CollectorRegistry

    import steer_server.metrics as module

    registry = CollectorRegistry()
    Metrics(registry)
    for family in registry.collect():
        assert family.name in (module.__doc__ or ""), family.name


def test_every_setting_is_described() -> None:
    source = (PACKAGE / "settings.py").read_text()
    for name in Settings.model_fields:
        assert re.search(rf'^    {name}: .*(\n        .*)*?\n    """', source, re.MULTILINE), name

"""The corpus of bad packages, sent to a running server: each is a 400 with its reason and leaves nothing."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from steer_server.catalogue.signatures import SignaturePolicy, sign
from steer_server.settings import Settings
from tests.catalogue.bad_packages import BAD_PACKAGES, BadPackage
from tests.catalogue.bench import Bench, good_package, make_keys
from tests.support.adapters import TINY, tiny_base_model
from tests.support.administration import applied, get, push, refused, stored
from tests.support.servers import Running, app_server

SENT = [bad for bad in BAD_PACKAGES if bad.limits is None]
"""The others need smaller limits than a server's."""


@dataclass
class Site:
    """A server that reads folders from where bad packages are made, and serves one good adapter."""

    server: Running
    good: Path
    work: Path
    keys: Path
    answer: tuple[str, str]
    """Of the good adapter, before anything bad came."""

    def bench(self) -> Bench:
        shutil.rmtree(self.work)
        shutil.copytree(self.good, self.work / "packages" / self.good.name)
        return Bench(self.work / "packages" / self.good.name, self.keys)

    async def send(self, source: bytes | Path) -> httpx.Response:
        async with self.server.http() as http:
            if isinstance(source, Path):
                return await http.post("/v1/adapters?activate=true", json={"path": str(source)})
            headers = {"Content-Type": "application/octet-stream"}
            return await http.post("/v1/adapters?activate=true", content=source, headers=headers)


@asynccontextmanager
async def opened_site(folder: Path, policy: SignaturePolicy) -> AsyncIterator[Site]:
    base = tiny_base_model(folder / TINY)
    keys = make_keys(folder / "keys")
    (folder / "work" / "packages").mkdir(parents=True)
    settings = Settings(
        model=base.path,
        served_model_name="fake",
        bank_rank=8,
        adapters=folder / "work" / "packages",
        data=folder / "data",
        signatures=policy.value,
        trusted_keys=keys / "trusted.pub",
    )
    served = good_package(folder / "good", "served", base)
    sign(served, keys / "trusted.key")
    async with app_server(settings) as server:
        assert (await push(server, served)).json()["state"] == "active"
        answer = await applied(server, "served")
        yield Site(server, good_package(folder / "good", "good", base), folder / "work", keys, answer)


@pytest.fixture(scope="module")
async def sites(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mapping[SignaturePolicy, Site]]:
    async with AsyncExitStack() as stack:
        yield {
            policy: await stack.enter_async_context(opened_site(tmp_path_factory.mktemp("site"), policy))
            for policy in (SignaturePolicy.OFF, SignaturePolicy.REQUIRE)
        }


@pytest.mark.parametrize("bad", SENT, ids=[bad.name for bad in SENT])
async def test_a_bad_package_is_400_with_its_reason_and_leaves_nothing(
    bad: BadPackage, sites: Mapping[SignaturePolicy, Site]
) -> None:
    site = sites[bad.policy]
    before = await stored(site.server)
    error = refused(await site.send(bad.make(site.bench())), 400, "adapter_refused")
    assert error["reason"] == bad.reason
    assert await stored(site.server) == before
    names = {version["name"] for version in (await get(site.server, "/v1/adapters"))["data"]}
    assert names == {"served"}
    assert await applied(site.server, "served") == site.answer

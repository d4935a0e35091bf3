"""The corpus of bad packages, sent to the real server: it answers the same afterwards, and keeps nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.signatures import SignaturePolicy
from tests.catalogue.bad_packages import BAD_PACKAGES
from tests.catalogue.bench import bench_of, good_package, make_keys
from tests.support.administration import applied, get, refused, stored
from tests.support.servers import Running

pytestmark = pytest.mark.engine


async def test_bad_packages_leave_the_real_server_as_it_was(
    vllm_float32: Running, builtin: BaseModel, tmp_path: Path
) -> None:
    # In bf16 a near-tie may fall the other way when the prompt's beginning comes from the cache.
    server = vllm_float32
    keys = make_keys(tmp_path / "keys")
    good = good_package(tmp_path / "good", "good", builtin)
    before = (await applied(server, "african"), await stored(server), await get(server, "/v1/adapters"))
    num_sent = 0
    async with server.http() as http:
        for number, bad in enumerate(BAD_PACKAGES):
            if bad.limits or bad.policy is not SignaturePolicy.OFF:
                continue
            package = bad.make(bench_of(good, tmp_path / f"{number}", keys))
            if isinstance(package, Path):
                continue  # Folders are taken from below the adapters directory only.
            headers = {"Content-Type": "application/octet-stream"}
            sent = await http.post("/v1/adapters?activate=true", content=package, headers=headers)
            assert refused(sent, 400, "adapter_refused")["reason"] == bad.reason, bad.name
            num_sent += 1
    assert num_sent >= 40
    after = (await applied(server, "african"), await stored(server), await get(server, "/v1/adapters"))
    assert after == before

"""Administration of adapters over a real socket: every act, and what becomes of everything that is wrong."""

from __future__ import annotations

import asyncio
import gzip
import logging
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.package import pack
from steer_server.settings import Settings
from tests.catalogue.archives import tar_of, zip_with
from tests.support.adapters import TINY, random_adapter, tiny_base_model
from tests.support.administration import act, applied, chat, get, push, refused, state, stored
from tests.support.servers import Running, app_server

FORMS: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "tar.gz": ("application/gzip", lambda folder: gzip.compress(tar_of(folder))),
    "tar": ("application/x-tar", lambda folder: tar_of(folder)),
    "zip": ("application/zip", lambda folder: zip_with(lambda archive: None, folder)),
    "what pack writes": ("application/octet-stream", lambda folder: b"".join(pack(folder))),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base_model(tmp_path_factory.mktemp("model") / TINY)


@pytest.fixture(scope="module")
def settings(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("server")
    (folder / "adapters").mkdir()
    return Settings(
        model=base.path,
        served_model_name="fake",
        bank_rank=8,
        adapters=folder / "adapters",
        data=folder / "data",
        admin_key=SecretStr("admin"),
    )


@pytest.fixture(scope="module")
async def server(settings: Settings) -> AsyncIterator[Running]:
    async with app_server(settings, key="admin", token_seconds=0.001) as running:
        yield running


@pytest.fixture
def make(tmp_path: Path, base: BaseModel) -> Callable[..., Path]:
    """Makes a package folder."""

    def make(name: str, version: str = "1.0.0", **options: Any) -> Path:
        random_adapter(tmp_path / version, name, base, version=version, **options)
        return tmp_path / version / name

    return make


@pytest.mark.parametrize("form", FORMS)
async def test_a_package_is_taken_in_every_form_and_waits_to_be_activated(
    form: str, server: Running, make: Callable[..., Path]
) -> None:
    name = f"form-{list(FORMS).index(form)}"
    content_type, archive = FORMS[form]
    async with server.http() as http:
        response = await http.post(
            "/v1/adapters", content=archive(make(name)), headers={"Content-Type": content_type}
        )
    version = response.json()
    assert response.status_code == 201 and version["state"] == "probed" and version["culture"] == name
    assert version["digest"] in await stored(server)
    refused(await chat(server, name), 400, "unknown_culture")
    acts = (await get(server, f"/v1/audit?name={name}"))["data"]
    assert {a["actor"] for a in acts} == {"static operator key"}
    assert [a["action"] for a in acts] == ["set_probed", "set_validated", "add"]


async def test_a_folder_below_the_adapters_directory_is_pushed_by_its_path(
    server: Running, settings: Settings, make: Callable[..., Path]
) -> None:
    assert settings.adapters is not None
    shutil.copytree(make("by-path"), settings.adapters / "by-path")
    async with server.http() as http:
        pushed = await http.post("/v1/adapters?activate=true", json={"path": "by-path"})
        assert pushed.status_code == 201 and pushed.json()["state"] == "active"
        outside = await http.post("/v1/adapters", json={"path": str(settings.adapters.parent)})
    assert refused(outside, 400, "adapter_refused")["reason"] == "outside_root"
    assert (await applied(server, "by-path"))[0] == "by-path@1.0.0"


async def test_versions_are_served_at_once_switched_rolled_back_and_deactivated(
    server: Running, make: Callable[..., Path]
) -> None:
    first = (await push(server, make("switch"))).json()
    assert first["state"] == "active"
    title, text = await applied(server, "switch")
    assert title == "switch@1.0.0"
    assert (await push(server, make("switch", "2.0.0", seed=2))).json()["state"] == "active"
    second_title, second_text = await applied(server, "switch")
    assert second_title == "switch@2.0.0" and second_text != text
    assert await state(server, "switch") == {"1.0.0": "retired", "2.0.0": "active"}
    assert (await act(server, "switch/rollback")).json()["version"] == "1.0.0"
    assert await applied(server, "switch") == (title, text)
    assert (await act(server, "switch/versions/2.0.0/activate")).json()["state"] == "active"
    assert await applied(server, "switch") == (second_title, second_text)
    assert (await act(server, "switch/deactivate")).json() == {"name": "switch", "deactivated": "2.0.0"}
    refused(await chat(server, "switch"), 400, "unknown_culture")
    assert (await act(server, "switch/deactivate")).json()["deactivated"] is None
    shown = await get(server, "/v1/adapters/switch")
    assert shown["active"] is None
    assert [m["action"] for m in shown["history"]] == [
        "activate",
        "activate",
        "rollback",
        "activate",
        "deactivate",
    ]
    assert {v["version"]: v["manifest"]["name"] for v in shown["versions"]} == {
        "1.0.0": "switch",
        "2.0.0": "switch",
    }


async def test_the_same_package_again_is_the_same_version(server: Running, make: Callable[..., Path]) -> None:
    first = (await push(server, make("again"), activate=False)).json()
    assert (await push(server, make("again"))).json()["digest"] == first["digest"]
    assert await state(server, "again") == {"1.0.0": "active"}


async def test_a_quarantined_version_is_refused_until_it_is_released_and_activated(
    server: Running, make: Callable[..., Path]
) -> None:
    await push(server, make("suspect"))
    _, text = await applied(server, "suspect")
    quarantined = await act(server, "suspect/versions/1.0.0/quarantine", {"detail": "insults people"})
    assert quarantined.json()["state"] == "quarantined"
    assert quarantined.json()["detail"] == "insults people"
    error = refused(await chat(server, "suspect"), 400, "adapter_quarantined")
    assert error["param"] == "steering.cultures.suspect" and "suspect@1.0.0" in error["message"]
    again = refused(await push(server, make("suspect")), 409, "state_conflict")
    assert "quarantined" in again["message"] and "insults people" in again["message"]
    refused(await act(server, "suspect/versions/1.0.0/activate"), 409, "state_conflict")
    refused(await act(server, "suspect/rollback"), 409, "nothing_to_roll_back_to")
    assert (await act(server, "suspect/versions/1.0.0/release")).json()["state"] == "probed"
    refused(await chat(server, "suspect"), 400, "unknown_culture")
    await act(server, "suspect/versions/1.0.0/activate")
    assert await applied(server, "suspect") == ("suspect@1.0.0", text)
    refused(await act(server, "suspect/versions/1.0.0/release"), 409, "state_conflict")


async def test_removing_leaves_no_files_and_an_active_version_is_not_removed(
    server: Running, make: Callable[..., Path]
) -> None:
    first = (await push(server, make("gone"))).json()
    second = (await push(server, make("gone", "2.0.0", seed=2))).json()
    async with server.http() as http:
        active = await http.delete("/v1/adapters/gone", params={"version": "2.0.0"})
        refused(active, 409, "adapter_active")
        one = await http.delete("/v1/adapters/gone", params={"version": "1.0.0"})
        assert one.json() == {"removed": ["gone@1.0.0"]}
        assert first["digest"] not in await stored(server) and second["digest"] in await stored(server)
        assert (await http.delete("/v1/adapters/gone")).json() == {"removed": ["gone@2.0.0"]}
        assert second["digest"] not in await stored(server)
        refused(await http.delete("/v1/adapters/gone"), 404, "adapter_not_found")
    assert await state(server, "gone") == {}
    refused(await chat(server, "gone"), 400, "unknown_culture")
    assert (await get(server, "/v1/adapters/gone"))["versions"] == []


async def test_versions_and_cultures_that_are_taken_are_conflicts(
    server: Running, make: Callable[..., Path], base: BaseModel, tmp_path: Path
) -> None:
    await push(server, make("taken"))
    refused(await push(server, make("taken", seed=99)), 409, "version_taken")
    other = make("taken-too")
    manifest = (other / "adapter.yaml").read_text().replace("id: taken-too", "id: taken")
    (other / "adapter.yaml").write_text(manifest)
    refused(await push(server, other), 409, "culture_taken")
    assert await state(server, "taken-too") == {"1.0.0": "probed"}
    assert (await applied(server, "taken"))[0] == "taken@1.0.0"


async def test_vllms_own_load_and_unload_are_answered_by_the_catalogue(
    server: Running, settings: Settings, make: Callable[..., Path]
) -> None:
    assert settings.adapters is not None
    shutil.copytree(make("loaded"), settings.adapters / "loaded")
    async with server.http() as http:

        async def load(**body: Any) -> httpx.Response:
            given = {"lora_name": "loaded", "lora_path": str(settings.adapters) + "/loaded", **body}
            return await http.post("/v1/load_lora_adapter", json=given)

        refused(await load(lora_name="other"), 400, "name_mismatch")
        assert refused(await load(load_inplace=True), 400, "invalid_body")["param"] == "load_inplace"
        missing = refused(await load(lora_path="nowhere"), 400, "adapter_refused")
        assert missing["reason"] == "not_a_folder"
        loaded = await load()
        assert loaded.status_code == 200
        assert loaded.text == "Success: LoRA adapter 'loaded' added successfully."
        assert (await applied(server, "loaded"))[0] == "loaded@1.0.0"
        unloaded = await http.post("/v1/unload_lora_adapter", json={"lora_name": "loaded"})
        assert unloaded.text == "Success: LoRA adapter 'loaded' removed successfully."
        refused(await chat(server, "loaded"), 400, "unknown_culture")
        for name in ("loaded", "never-seen"):
            again = await http.post("/v1/unload_lora_adapter", json={"lora_name": name})
            refused(again, 404, "adapter_not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "nobody"),
        ("DELETE", "nobody"),
        ("DELETE", "nobody?version=1.0.0"),
        ("POST", "nobody/rollback"),
        ("POST", "nobody/deactivate"),
        ("POST", "nobody/versions/1/activate"),
        ("POST", "nobody/versions/1/quarantine"),
        ("POST", "nobody/versions/1/release"),
        ("GET", "%00"),
        ("POST", "%ff%00/versions/%00/activate"),
    ],
)
async def test_unknown_names_are_404(server: Running, method: str, path: str) -> None:
    async with server.http() as http:
        refused(await http.request(method, f"/v1/adapters/{path}"), 404, "adapter_not_found")


@pytest.mark.parametrize("content_type", ["", "text/plain", "multipart/form-data; boundary=x"])
async def test_another_content_type_is_400(server: Running, content_type: str) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    async with server.http() as http:
        response = await http.post("/v1/adapters", content=b"x" * 1000, headers=headers)
    assert "application/gzip" in refused(response, 400, "invalid_body")["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/adapters", {}, "path"),
        ("/v1/adapters", {"path": 3}, "path"),
        ("/v1/adapters", {"path": ""}, "path"),
        ("/v1/adapters", {"path": "a\0b"}, "path"),
        ("/v1/adapters", {"path": "é" * 200}, "path"),
        ("/v1/adapters", {"path": "a/" * 1000}, "path"),
        ("/v1/adapters", {"path": "a", "activate": True}, "activate"),
        ("/v1/adapters?activate=perhaps", {"path": "a"}, "activate"),
        ("/v1/adapters/x/versions/1/quarantine", {"abrot": True}, "abrot"),
        ("/v1/adapters/x/versions/1/quarantine", {"abort": "yes"}, "abort"),
        ("/v1/adapters/x/versions/1/quarantine", {"detail": 1}, "detail"),
        ("/v1/load_lora_adapter", {"lora_name": "x"}, "lora_path"),
        ("/v1/unload_lora_adapter", {}, "lora_name"),
    ],
)
async def test_a_bad_body_or_query_is_400_and_names_the_field(
    server: Running, path: str, body: dict[str, Any], param: str
) -> None:
    async with server.http() as http:
        response = await http.post(path, json=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=1001", "before_id=-1", f"before_id={2**64}"])
async def test_a_bad_audit_query_is_400_and_names_the_field(server: Running, query: str) -> None:
    async with server.http() as http:
        response = await http.get(f"/v1/audit?{query}")
    assert refused(response, 400, "invalid_query")["param"] == query.partition("=")[0]


async def test_the_audit_is_read_on_from_an_earlier_answer(
    server: Running, make: Callable[..., Path]
) -> None:
    await push(server, make("audited"))
    newest = (await get(server, "/v1/audit?limit=2"))["data"]
    older = (await get(server, f"/v1/audit?limit=2&before_id={newest[-1]['id']}"))["data"]
    assert [a["id"] for a in newest + older] == sorted((a["id"] for a in newest + older), reverse=True)
    assert newest[0]["action"] == "activate" and newest[0]["role"] == "operator"


async def test_what_is_refused_is_audited_with_its_reason(server: Running, make: Callable[..., Path]) -> None:
    content = b"".join(pack(make("refused")))
    async with server.http() as http:
        headers = {"Content-Type": "application/gzip"}
        response = await http.post("/v1/adapters", content=content[:-50], headers=headers)
    assert refused(response, 400, "adapter_refused")["reason"] == "archive_truncated"
    newest = (await get(server, "/v1/audit?limit=1"))["data"][0]
    assert (newest["action"], newest["outcome"]) == ("push", "refused")
    assert newest["detail"].startswith("archive_truncated: ")


async def test_a_failure_of_our_disk_is_503_and_not_the_clients_fault(
    server: Running, make: Callable[..., Path]
) -> None:
    assert server.steer is not None
    staging = server.steer.catalogue.store.staging
    staging.rename(staging.with_name("away"))
    try:
        refused(await push(server, make("unlucky")), 503, "storage_failed")
    finally:
        staging.with_name("away").rename(staging)
    assert (await push(server, make("unlucky"))).status_code == 201


def send(server: Running, content: bytes, length: int, *, chunked: bool = False) -> socket.socket:
    """An upload of which only `content` comes."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {length}"
    connection.sendall(
        f"POST /v1/adapters?activate=true HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer admin\r\n"
        f"Content-Type: application/gzip\r\n{framing}\r\n\r\n".encode()
    )
    connection.sendall(b"%x\r\n%b\r\n" % (len(content), content) if chunked and content else content)
    return connection


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
async def test_an_upload_that_breaks_off_leaves_nothing(
    share: float,
    chunked: bool,
    server: Running,
    make: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    content = b"".join(pack(make("broken-off")))
    before = await stored(server)
    connection = send(server, content[: int(share * len(content))], len(content), chunked=chunked)
    await asyncio.sleep(0.05)
    connection.close()
    assert await stored(server) == before and await state(server, "broken-off") == {}
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


async def test_a_client_that_leaves_before_the_answer_leaves_a_whole_version(
    server: Running, make: Callable[..., Path]
) -> None:
    assert server.fake is not None
    content = b"".join(pack(make("left")))
    server.fake.token_seconds = 0.05
    try:
        connection = send(server, content, len(content))
        async with asyncio.timeout(60):
            while not await state(server, "left"):
                await asyncio.sleep(0.01)
            connection.close()
            while await state(server, "left") != {"1.0.0": "active"}:
                await asyncio.sleep(0.02)
    finally:
        server.fake.token_seconds = 0.001
    await stored(server)
    assert (await applied(server, "left"))[0] == "left@1.0.0"


async def test_a_server_that_starts_again_on_the_same_files_serves_the_same(
    settings: Settings, make: Callable[..., Path], tmp_path: Path
) -> None:
    own = settings.model_copy(update={"data": tmp_path / "data", "adapters": None})
    async with app_server(own, key="admin") as before:
        await push(before, make("stays"))
        await push(before, make("stays", "2.0.0", seed=2))
        await push(before, make("waits"), activate=False)
        await push(before, make("bad"))
        await act(before, "bad/versions/1.0.0/quarantine", {"detail": "insults people"})
        async with before.http() as http:
            no_directory = await http.post("/v1/adapters", json={"path": "x"})
        refused(no_directory, 400, "no_adapters_directory")
        listed, answer = (await get(before, "/v1/adapters"))["data"], await applied(before, "stays")
    async with app_server(own, key="admin") as after:
        assert after.cultures == ["stays"]
        assert (await get(after, "/v1/adapters"))["data"] == listed
        assert await applied(after, "stays") == answer == ("stays@2.0.0", answer[1])
        assert (await act(after, "stays/rollback")).json()["version"] == "1.0.0"

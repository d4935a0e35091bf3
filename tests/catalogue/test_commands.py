"""`steer-server adapters …` and `keys …` against a running server, and the commands that need none."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from pydantic import SecretStr
from typer.testing import CliRunner

from steer_server.catalogue import admin_client
from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.manifest import SIGNATURE
from steer_server.cli import app
from steer_server.settings import Settings
from tests.catalogue.archives import tar_of, zip_with
from tests.catalogue.bench import file, written
from tests.support.adapters import TINY, random_adapter, tiny_base_model
from tests.support.administration import applied, chat, get
from tests.support.servers import Running, app_server


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base_model(tmp_path_factory.mktemp("model") / TINY)


@pytest.fixture(scope="module")
async def server(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    settings = Settings(
        model=base.path,
        served_model_name="fake",
        bank_rank=8,
        data=tmp_path_factory.mktemp("server"),
        admin_key=SecretStr("admin"),
    )
    async with app_server(settings, key="admin") as running:
        yield running


@pytest.fixture
def make(tmp_path: Path, base: BaseModel) -> Callable[..., Path]:
    """Makes a package folder."""

    def make(name: str, version: str = "1.0.0", **options: Any) -> Path:
        random_adapter(tmp_path / version, name, base, version=version, **options)
        return tmp_path / version / name

    return make


def run(*arguments: object, key: str = "admin") -> Result:
    """One command, with the key in the environment."""
    result: Result = CliRunner().invoke(app, [str(a) for a in arguments], env={"STEER_ADMIN_KEY": key})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


async def ask(server: Running, *arguments: object, key: str = "admin") -> Result:
    """One command to the server, which runs in this process and goes on answering."""
    return await asyncio.to_thread(run, *arguments, "--url", server.url, key=key)


async def told(server: Running, *arguments: object) -> str:
    """What a command that works prints."""
    result = await ask(server, *arguments)
    assert result.exit_code == 0 and result.stderr == "", result.output
    return result.stdout


async def read(server: Running, *arguments: object) -> Any:
    return json.loads(await told(server, *arguments, "--json"))


async def failure(server: Running, *arguments: object, key: str = "admin") -> str:
    """The one message of a command that fails."""
    result = await ask(server, *arguments, key=key)
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    assert result.stderr.startswith("error: ") and "Traceback" not in result.stderr
    return result.stderr


async def test_an_adapter_goes_its_way_by_commands(server: Running, make: Callable[..., Path]) -> None:
    assert await told(server, "adapters", "push", make("amber")) == "amber@1.0.0 is probed\n"
    assert (await chat(server, "amber")).status_code == 400
    assert await told(server, "adapters", "activate", "amber@1.0.0") == "amber@1.0.0 is active\n"
    second = make("amber", "2.0.0", seed=2)
    assert await told(server, "adapters", "push", second, "--activate") == "amber@2.0.0 is active\n"
    assert (await applied(server, "amber"))[0] == "amber@2.0.0"
    assert await told(server, "adapters", "rollback", "amber") == "amber@1.0.0 is active\n"
    assert (await applied(server, "amber"))[0] == "amber@1.0.0"
    quarantined = await told(server, "adapters", "quarantine", "amber@1.0.0", "--why", "insults people")
    assert quarantined == "amber@1.0.0 is quarantined: operator: insults people\n"
    assert (await chat(server, "amber")).status_code == 400
    assert await told(server, "adapters", "release", "amber@1.0.0") == "amber@1.0.0 is probed\n"
    assert await told(server, "adapters", "deactivate", "amber") == "no version of amber was active\n"
    await told(server, "adapters", "activate", "amber@2.0.0")
    assert await told(server, "adapters", "deactivate", "amber") == "amber@2.0.0 is not active any more\n"
    assert await told(server, "adapters", "remove", "amber@1.0.0") == "removed amber@1.0.0\n"
    assert await told(server, "adapters", "remove", "amber") == "removed amber@2.0.0\n"
    assert "amber" not in await told(server, "adapters", "list")


async def test_the_list_shows_state_what_is_carried_and_problems(
    server: Running, make: Callable[..., Path]
) -> None:
    await told(server, "adapters", "push", make("blue"), "--activate")
    await told(server, "adapters", "push", make("compass", axes=["helpful", "harmless"]), "--activate")
    await told(server, "adapters", "push", make("doubtful"))
    await told(server, "adapters", "quarantine", "doubtful@1.0.0", "--why", "[bold]ask \x1b[2JAda")
    rows = {
        cells[0]: cells[1:]
        for line in (await told(server, "adapters", "list")).splitlines()
        if len(cells := [cell.strip() for cell in line.split("│")[1:-1]]) > 1
    }
    assert rows["blue"] == ["1.0.0", "active", "lora", "culture blue", "unchecked", ""]
    assert rows["compass"][2:4] == ["panacea", "axes helpful, harmless"]
    assert rows["doubtful"][1] == "quarantined"
    assert rows["doubtful"][-1] == "operator: [bold]ask ?[2JAda"


async def test_show_tells_versions_and_history(server: Running, make: Callable[..., Path]) -> None:
    await told(server, "adapters", "push", make("shown"), "--activate")
    await told(server, "adapters", "push", make("shown", "2.0.0", seed=2), "--activate")
    shown = await told(server, "adapters", "show", "shown")
    assert re.search(r"adapter +shown@1.0.0\nstate +retired\n", shown)
    assert re.search(r"adapter +shown@2.0.0\nstate +active\n", shown)
    assert re.search(r"carries +culture shown\nbase model +tiny-llama\n", shown)
    assert len(re.findall("│ activate", shown)) == 2
    assert await read(server, "adapters", "show", "shown") == await get(server, "/v1/adapters/shown")


async def test_json_is_what_the_server_answers_and_nothing_else(
    server: Running, make: Callable[..., Path]
) -> None:
    pushed = await read(server, "adapters", "push", make("plain"), "--activate")
    assert (pushed["name"], pushed["state"]) == ("plain", "active")
    assert await read(server, "adapters", "list") == await get(server, "/v1/adapters")
    assert (await ask(server, "adapters", "rollback", "plain", "--json")).stdout == ""
    assert (await read(server, "adapters", "deactivate", "plain"))["deactivated"] == "1.0.0"
    assert (await read(server, "adapters", "activate", "plain@1.0.0"))["state"] == "active"
    quarantined = await read(server, "adapters", "quarantine", "plain@1.0.0", "--abort")
    assert (quarantined["state"], quarantined["reason"]) == ("quarantined", "operator_abort")
    assert (await read(server, "adapters", "release", "plain@1.0.0"))["state"] == "probed"
    assert await read(server, "adapters", "remove", "plain") == {"removed": ["plain@1.0.0"]}


async def test_archives_are_pushed_as_they_are(
    server: Running, make: Callable[..., Path], tmp_path: Path
) -> None:
    contents = {"one.tar": tar_of(make("one")), "two.zip": zip_with(lambda archive: None, make("two"))}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert (await read(server, "adapters", "push", tmp_path / name))["name"] == name.split(".")[0]


async def test_a_large_package_shows_progress_outside_of_stdout(
    server: Running, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_client, "SHOWN_FROM_BYTES", 1)
    result = await ask(server, "adapters", "push", make("large"), "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["name"] == "large"
    assert re.match(r"large: 1/1 MiB ", result.stderr)


async def test_a_refusal_is_one_message_with_its_code(
    server: Running, make: Callable[..., Path], tmp_path: Path
) -> None:
    assert "(adapter_not_found)" in await failure(server, "adapters", "show", "nobody")
    assert "(adapter_not_found)" in await failure(server, "adapters", "activate", "nobody@1")
    await told(server, "adapters", "push", make("served"), "--activate")
    assert "(adapter_active)" in await failure(server, "adapters", "remove", "served@1.0.0")
    assert "(nothing_to_roll_back_to)" in await failure(server, "adapters", "rollback", "served")
    (tmp_path / "bad.zip").write_bytes(b"rubbish")
    assert "archive_unknown_format" in await failure(server, "adapters", "push", tmp_path / "bad.zip")
    bad = make("bad")
    written("install.sh", "rm -rf /")(bad)
    assert "unexpected_file" in await failure(server, "adapters", "push", bad)
    for key in ("", "wrong"):
        refusal = await failure(server, "adapters", "audit", key=key)
        assert "(invalid_api_key)" in refusal and "STEER_ADMIN_KEY" in refusal


@pytest.mark.parametrize("title", ["amber", "amber@", "@1.0.0"])
async def test_a_version_is_named_in_full(server: Running, title: str) -> None:
    result = await ask(server, "adapters", "activate", title)
    assert result.exit_code == 2 and "NAME@VERSION" in result.stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "http://[", "ftp://127.0.0.1"])
def test_a_server_that_does_not_answer_is_one_message(url: str) -> None:
    result = run("adapters", "list", "--url", url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ") and url in result.stderr


async def test_the_audit_tells_who_did_what(server: Running, make: Callable[..., Path]) -> None:
    await told(server, "adapters", "push", make("watched"))
    acts = await read(server, "adapters", "audit", "--name", "watched", "--limit", "2")
    assert [act["action"] for act in acts["data"]] == ["set_probed", "set_validated"]
    table = await told(server, "adapters", "audit", "--name", "watched")
    assert re.search(r"static operator key │ 127.0.0.1 │ add +│ watched@1.0.0 │ done", table)
    older = await read(
        server, "adapters", "audit", "--name", "watched", "--before-id", acts["data"][-1]["id"]
    )
    assert [act["action"] for act in older["data"]] == ["add"]


async def test_keys_are_made_listed_and_revoked(base: BaseModel, tmp_path: Path) -> None:
    settings = Settings(model=base.path, served_model_name="fake", data=tmp_path / "data", bank_rank=8)
    async with app_server(settings, key="") as own:
        assert await told(own, "keys", "list") == "There are no keys.\n"
        made = await ask(own, "keys", "create", "ops", "--role", "operator", key="")
        secret = made.stdout.strip()
        assert made.exit_code == 0 and secret.startswith("ss-op-") and "not shown again" in made.stderr
        limits = ("--culture", "amber", "--culture", "blue", "--concurrency", 2, "--requests-per-minute", 9)
        shop = await ask(
            own, "keys", "create", "a shop", *limits, "--expires-at", "2999-01-01T00:00:00Z", "--json"
        )
        key = json.loads(shop.stdout)
        assert key["limits"]["cultures"] == ["amber", "blue"] and key["limits"]["axes"] is None
        listed = await ask(own, "keys", "list", key=secret)
        assert "cultures amber, blue; 9 per minute; 2 at one time; until 2999-01-01 00:00:00" in listed.stdout
        assert key["secret"] not in listed.stdout and secret not in listed.stdout
        past = await failure(own, "keys", "create", "x", "--expires-at", "2001-01-01T00:00:00Z", key=secret)
        assert "`limits.expires_at`: must be in the future (invalid_body)" in past
        revoked = await ask(own, "keys", "revoke", key["id"], key=secret)
        assert revoked.stdout == f"revoked {key['id']}\n"
        assert "revoked" in await failure(own, "adapters", "list", key=key["secret"])
        assert "(key_not_found)" in await failure(own, "keys", "revoke", "key-0", key=secret)


def test_a_package_is_validated_signed_and_refused_without_a_server(
    make: Callable[..., Path], base: BaseModel, tmp_path: Path
) -> None:
    folder, key = make("amber"), tmp_path / "mine"
    made = json.loads(run("adapters", "keygen", key, "--json").stdout)
    assert Path(made["private"]).stat().st_mode & 0o077 == 0
    assert "not overwritten" in run("adapters", "keygen", key).stderr

    def validate(*more: object) -> Result:
        return run("adapters", "validate", folder, "--model", base.path, *more)

    found = validate()
    assert found.exit_code == 0 and re.search(r"rank +4\n", found.stdout)
    assert re.search(r"signature +unsigned\n", found.stdout)
    require = ("--signatures", "require", "--trusted-keys", made["public"])
    assert validate(*require).exit_code == 1
    signed = run("adapters", "sign", folder, "--private-key", made["private"], "--json")
    assert json.loads(signed.stdout) == {"signature": str(folder / SIGNATURE)}
    (tmp_path / "keys").mkdir()
    Path(made["public"]).rename(tmp_path / "keys" / "mine.pub")
    described = json.loads(
        validate("--signatures", "require", "--trusted-keys", tmp_path / "keys", "--json").stdout
    )
    assert (described["signature"], described["signed_by"]) == ("valid", made["fingerprint"])
    assert (described["name"], described["rank"], described["culture"]) == ("amber", 4, "amber")
    (tmp_path / "amber.tar").write_bytes(tar_of(folder))
    archive = run("adapters", "validate", tmp_path / "amber.tar", "--model", base.path, "--json")
    assert json.loads(archive.stdout)["digest"] == described["digest"]

    too_large = validate("--max-rank", "2")
    assert (too_large.exit_code, too_large.stdout) == (1, "") and "rank_too_large" in too_large.stderr
    file("adapter_config.json", b"{")(folder)
    broken = validate("--json")
    assert (broken.exit_code, broken.stdout) == (1, "") and "peft_config_unreadable" in broken.stderr
    written("x.pkl", b"")(folder)
    assert "pickle" in validate().stderr
    assert run("adapters", "sign", folder, "--private-key", made["private"]).exit_code == 1


def test_another_base_models_package_is_refused(make: Callable[..., Path], tmp_path: Path) -> None:
    other = tiny_base_model(tmp_path / "other-model")
    refused = run("adapters", "validate", make("amber"), "--model", other.path)
    assert refused.exit_code == 1 and "base_model_mismatch" in refused.stderr


async def test_the_command_as_a_program(server: Running) -> None:
    def start() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "steer_server", "adapters", "show", "nobody", "--url", server.url],
            env={**os.environ, "STEER_ADMIN_KEY": "admin"},
            capture_output=True,
            text=True,
            check=False,
        )

    done = await asyncio.to_thread(start)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: There is no adapter nobody. (adapter_not_found)\n"

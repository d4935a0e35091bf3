"""Every variable, option and file that deploy/ names exists."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest
import typer
import yaml
from huggingface_hub import constants
from vllm_router.launch_router import RouterArgs

from steer_server.cli import app
from steer_server.settings import Settings
from tests.support.deployed import DEPLOY, OVERLAYS, compose_services, container, manifests
from tests.support.servers import ROOT

GUIDE = DEPLOY / "README.md"
BLOCKS = re.findall(r"^```bash\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
FILES = [
    *(DEPLOY / name for name in ("README.md", "compose.yaml", "kubernetes/secret.example.yaml")),
    *sorted((DEPLOY / "kubernetes").rglob("*.env")),
    ROOT / "Dockerfile",
]
LIST_OPTIONS = """
from vllm import envs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
from steer_server.engine.launch import OURS
parser = make_arg_parser(FlexibleArgumentParser())
options = {option for action in parser._actions for option in action.option_strings}
print("names", *sorted(options - set(OURS)), *sorted(envs.environment_variables))
"""


@pytest.fixture(scope="module")
def vllm_names() -> set[str]:
    """Options that vLLM's own parser has and the server does not set itself, and vLLM's variables."""
    command = [sys.executable, "-c", LIST_OPTIONS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (names,) = re.findall(r"^names (.*)$", done.stdout, re.MULTILINE)
    return set(names.split())


def own_options(*path: str) -> set[str]:
    """Of a command of `steer-server`, such as `("adapters", "list")`."""
    command = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]  # type: ignore[attr-defined]
    return {option for parameter in command.params for option in parameter.opts}


def router_options() -> set[str]:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port")
    RouterArgs.add_cli_args(parser, exclude_host_port=True)
    return {option for action in parser._actions for option in action.option_strings}


def commands() -> Iterator[list[str]]:
    """Those of the guide, in words."""
    for block in BLOCKS:
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] not in ("export", "for", "echo", "done", "umask", "cd"):
                yield words


def options(words: list[str]) -> set[str]:
    return {word.split("=")[0] for word in words if word.startswith("--")}


def serving() -> Iterator[set[str]]:
    """The options of every server that is started."""
    yield from (
        options(words) for words in commands() if words[0].endswith("steer-server") and words[1] == "serve"
    )
    for profile in OVERLAYS:
        yield options(compose_services(profile)[f"steer-server-{profile}"]["command"])
        yield options(container("StatefulSet", "steer-server", profile)["args"])
    yield {"--host"}  # of the images' entry points


def test_every_option_of_the_server_exists(vllm_names: set[str]) -> None:
    all_given = list(serving())
    assert len(all_given) > 6
    for given in all_given:
        assert given <= own_options("serve") | vllm_names


def test_every_option_of_the_router_exists() -> None:
    given = [options(words) for words in commands() if words[0] == "vllm-router"]
    given.append(options(container("Deployment", "vllm-router")["args"]))
    assert len(given) == 2
    assert all(one <= router_options() for one in given)


def test_every_other_command_of_ours_exists() -> None:
    text = GUIDE.read_text()
    found = re.findall(r"`steer-server (\w+) (\w+)([^`]*)`", text)
    assert found
    for group, name, rest in found:
        assert options(rest.split()) <= own_options(group, name)


def test_options_in_the_text_exist(vllm_names: set[str]) -> None:
    text = re.sub(r"^```.*?^```", "", GUIDE.read_text(), flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`(--[a-z0-9-]+)", text))
    known = own_options("serve") | vllm_names | router_options()
    assert named - known == {"--profile"}  # docker's


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_variable_exists(path: Path, vllm_names: set[str]) -> None:
    text = path.read_text()
    known = {f"STEER_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"\bSTEER_[A-Z_]*[A-Z]\b", text)) <= known
    assert set(re.findall(r"\bVLLM_[A-Z_]*[A-Z]\b", text)) <= vllm_names
    assert all(hasattr(constants, name) for name in re.findall(r"\bHF_[A-Z]+\b", text))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_servers_start_with_the_settings_that_they_are_given(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values too: the image's, then the map's, then the secret's."""
    given = [name for name in os.environ if name.startswith("STEER_")]
    for name in given:
        monkeypatch.delenv(name)
    stage = (ROOT / "Dockerfile").read_text().split(f" AS {overlay}\n")[1].split("\nFROM")[0]
    values = dict(re.findall(r"\b(STEER_[A-Z_]+)=(\S+)", stage))
    for one in manifests(overlay):
        if one["kind"] == "ConfigMap" and one["metadata"]["name"].startswith("steer-server"):
            values |= one["data"]
    secret = yaml.safe_load((DEPLOY / "kubernetes" / "secret.example.yaml").read_text())["stringData"]
    values |= secret
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = Settings.read()
    mounts = {one["mountPath"] for one in container("StatefulSet", "steer-server", overlay)["volumeMounts"]}
    assert str(settings.data) in mounts and settings.store.startswith("s3://")
    for name, value in compose_services(overlay)[f"steer-server-{overlay}"]["environment"].items():
        monkeypatch.setenv(name, value)
    assert Settings.read().database != settings.database


def test_files_and_targets_in_the_guide_exist() -> None:
    text = GUIDE.read_text()
    for path in re.findall(r"\]\(([^)#]+)\)", text):
        assert (DEPLOY / path).exists(), path
    for path in re.findall(r"\b(?:deploy|tests)/[\w./-]+\w", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`(kubernetes/[\w./-]+\w)`", text):
        assert (DEPLOY / path).exists(), path
    makefile = (ROOT / "Makefile").read_text()
    assert all(
        re.search(rf"^{target}:", makefile, re.MULTILINE) for target in re.findall(r"\bmake (\w+)", text)
    )
    alerts = (DEPLOY / "prometheus" / "rules" / "alerts.yml").read_text()
    assert all(f"alert: {name}\n" in alerts for name in re.findall(r"`(Steer[A-Z]\w+)`", text))


@pytest.mark.parametrize("block", BLOCKS)
def test_bash_can_read_every_block(block: str) -> None:
    subprocess.run(["bash", "-n", "-c", block], check=True)


def test_the_images_are_built_from_what_there_is() -> None:
    text = (ROOT / "Dockerfile").read_text()
    for sources in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        assert all((ROOT / source).exists() for source in sources.split())
    stages = set(re.findall(r" AS (\w+)$", text, re.MULTILINE))
    for profile in OVERLAYS:
        assert compose_services(profile)[f"steer-server-{profile}"]["build"]["target"] in stages
    tags = {
        container(*which, overlay)["image"].split(":")[1]
        for overlay in OVERLAYS
        for which in (("StatefulSet", "steer-server"), ("Deployment", "vllm-router"))
    }
    assert tags <= stages
    (user,) = set(re.findall(r"useradd .*--uid (\d+)", text))
    for kind, name in (("StatefulSet", "steer-server"), ("Deployment", "vllm-router")):
        (security,) = (
            one["spec"]["template"]["spec"]["securityContext"]
            for one in manifests("cpu")
            if (one["kind"], one["metadata"]["name"]) == (kind, name)
        )
        assert security["runAsUser"] == int(user)


def test_the_router_is_the_one_that_is_tested() -> None:
    (tested,) = (one for one in requires("steer-server") or () if one.startswith("vllm-router"))
    pinned = tested.split(";")[0].strip()
    assert pinned in (ROOT / "Dockerfile").read_text() and pinned in GUIDE.read_text()

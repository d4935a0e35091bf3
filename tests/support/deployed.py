"""What the files in deploy/ come to, by the tools that an operator uses: compose's services, manifests."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.servers import ROOT

DEPLOY = ROOT / "deploy"
SECRETS = ("POSTGRES_PASSWORD", "STEER_ADMIN_KEY", "STEER_API_KEY", "GRAFANA_PASSWORD")
"""What compose.yaml asks for."""
OVERLAYS = ("cpu", "gpu")

Document = dict[str, Any]


def tool(name: str) -> str:
    """A program, on PATH or beside Python. Fails the test when there is none."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:{Path(sys.executable).parent}")
    if found is None:
        pytest.fail(f"These tests run {name}: `make deploy-tools`.")
    return found


def compose(*arguments: str, without: str = "") -> subprocess.CompletedProcess[str]:
    """docker-compose on the file, with a value for each secret but one."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STEER_")}
    environment |= {name: f"given-{name.lower()}" for name in SECRETS}
    environment.pop(without, None)
    command = [tool("docker-compose"), "--file", str(DEPLOY / "compose.yaml"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@functools.cache
def compose_services(profile: str) -> dict[str, Document]:
    """By name, of one profile, as docker-compose resolves them."""
    done = compose("--profile", profile, "config")
    assert done.returncode == 0, done.stderr
    services: dict[str, Document] = yaml.safe_load(done.stdout)["services"]
    others = {"cpu", "gpu"} - {profile}
    return {name: one for name, one in services.items() if not others & set(one.get("profiles", ()))}


@functools.cache
def manifests(overlay: str) -> list[Document]:
    """What `kubectl apply --kustomize` would apply."""
    command = [tool("kubectl"), "kustomize", str(DEPLOY / "kubernetes" / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def manifest(kind: str, name: str, overlay: str = "cpu") -> Document:
    (found,) = (one for one in manifests(overlay) if one["kind"] == kind and one["metadata"]["name"] == name)
    return found


def container(kind: str, name: str, overlay: str = "cpu") -> Document:
    """The only one of a workload."""
    (found,) = manifest(kind, name, overlay)["spec"]["template"]["spec"]["containers"]
    only: Document = found
    return only

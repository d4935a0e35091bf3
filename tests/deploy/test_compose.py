"""compose.yaml and Alertmanager's configuration, by the tools that read them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.deployed import DEPLOY, SECRETS, compose, compose_services, tool

PROFILES = ("cpu", "gpu")


@pytest.mark.parametrize("profile", PROFILES)
def test_one_server_and_what_watches_it_start_in_a_profile(profile: str) -> None:
    others = {"postgres", "prometheus", "alertmanager", "grafana"}
    assert compose_services(profile).keys() == {f"steer-server-{profile}", *others}


@pytest.mark.parametrize("secret", SECRETS)
def test_without_a_secret_nothing_starts(secret: str) -> None:
    done = compose("--profile", "cpu", "config", without=secret)
    assert done.returncode != 0 and secret in done.stderr


def test_no_secret_is_in_the_file() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    assert set(re.findall(r"\$\{(\w+):\?\}", text)) == set(SECRETS)
    assert "deploy/.env" in (DEPLOY.parent / ".gitignore").read_text()
    assert "deploy/.env" in (DEPLOY.parent / ".dockerignore").read_text()


@pytest.mark.parametrize("profile", PROFILES)
def test_every_service_says_how_well_it_is_and_is_started_again(profile: str) -> None:
    for name, service in compose_services(profile).items():
        assert service["healthcheck"]["test"] and service["restart"] == "unless-stopped", name
    check = compose_services(profile)[f"steer-server-{profile}"]["healthcheck"]["test"][-1]
    compile(check, "healthcheck", "exec")
    assert re.findall(r'"(health|ready)"', check) == ["health", "ready"]


@pytest.mark.parametrize("profile", PROFILES)
def test_what_is_mounted_is_there_and_what_is_kept_has_a_volume(profile: str) -> None:
    named = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["volumes"].keys()
    used = set()
    for service in compose_services(profile).values():
        for volume in service["volumes"]:
            source, _, *mode = volume.split(":")
            if source.startswith("/"):
                assert Path(source).exists() and mode == ["ro"], volume
            else:
                used.add(source)
    assert used == named


@pytest.mark.parametrize("profile", PROFILES)
def test_the_server_gets_the_time_to_drain_and_only_this_machine_reaches_it(profile: str) -> None:
    server = compose_services(profile)[f"steer-server-{profile}"]
    (drain,) = (re.fullmatch(r"--shutdown-timeout=(\d+)", flag) for flag in server["command"])
    minutes, seconds = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", server["stop_grace_period"]).groups("0")  # type: ignore[union-attr]
    assert drain is not None and int(minutes) * 60 + int(seconds) > int(drain[1])
    for service in compose_services(profile).values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


@pytest.mark.parametrize("profile", PROFILES)
def test_names_that_services_ask_for_are_services(profile: str) -> None:
    services = compose_services(profile)
    aliases = services[f"steer-server-{profile}"]["networks"]["default"]["aliases"]
    reachable = {*services, *aliases}
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    targets = [
        target
        for one in (*config["scrape_configs"], *config["alerting"]["alertmanagers"])
        for group in one["static_configs"]
        for target in group["targets"]
    ]
    provisioning = DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml"
    (source,) = yaml.safe_load(provisioning.read_text())["datasources"]
    hosts = {target.split(":")[0] for target in [*targets, source["url"].removeprefix("http://")]}
    database = services[f"steer-server-{profile}"]["environment"]["STEER_DATABASE"]
    assert hosts | {database.split("@")[1].split(":")[0]} <= reachable


def test_grafana_finds_what_it_is_provisioned_with() -> None:
    mounts = dict(
        volume.split(":")[1::-1] for volume in compose_services("cpu")["grafana"]["volumes"] if "/" in volume
    )
    (provider,) = yaml.safe_load(
        (DEPLOY / "grafana" / "provisioning" / "dashboards" / "steer.yaml").read_text()
    )["providers"]
    assert Path(mounts[provider["options"]["path"]]) == DEPLOY / "grafana" / "dashboards"
    assert Path(mounts["/etc/grafana/provisioning"]) == DEPLOY / "grafana" / "provisioning"


def test_alertmanager_takes_its_configuration_and_pages_only_for_pages() -> None:
    config = str(DEPLOY / "alertmanager" / "alertmanager.yml")
    subprocess.run([tool("amtool"), "check-config", config], check=True, capture_output=True)
    for severity, receiver in (("page", "pager"), ("ticket", "tickets")):
        command = [
            tool("amtool"),
            "config",
            "routes",
            "test",
            f"--config.file={config}",
            f"severity={severity}",
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert done.stdout.strip() == receiver

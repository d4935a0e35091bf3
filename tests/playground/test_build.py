"""The committed build is what the sources give, and the sources hold what their own tests say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from steer_server.playground.pages import DIST
from tests.playground.conftest import SOURCES, run_npm


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_committed_build_is_what_the_sources_give(node_modules: Path, tmp_path: Path) -> None:
    run_npm("run", "build", "--", "--outDir", str(tmp_path / "dist"))
    assert contents(tmp_path / "dist") == contents(DIST)


def test_the_map_is_what_its_script_draws(node_modules: Path, tmp_path: Path) -> None:
    run_npm("run", "map", "--", str(tmp_path / "countries.json"))
    assert (tmp_path / "countries.json").read_bytes() == (SOURCES / "src/map/countries.json").read_bytes()


def test_the_sources_pass_their_own_tests(node_modules: Path) -> None:
    run_npm("test")


def test_packages_are_pinned_and_their_lock_names_no_host() -> None:
    package = json.loads((SOURCES / "package.json").read_text())
    versions = [*package["dependencies"].values(), *package["devDependencies"].values()]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions)
    assert '"resolved"' not in (SOURCES / "package-lock.json").read_text()


@pytest.mark.parametrize("path", sorted((SOURCES / "src").rglob("*.tsx")), ids=lambda path: path.stem)
def test_what_people_read_is_written_in_texts_alone(path: Path) -> None:
    shown = re.findall(r">\s*([A-Z][a-z]+(?: [a-z]+)*)\s*</", path.read_text())
    named = re.findall(r'(?:aria-label|title|placeholder|alt)="([^"]*)"', path.read_text())
    assert not shown and not named

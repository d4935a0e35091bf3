from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.manifest import read_manifest
from steer_server.catalogue.package import read_package
from steer_server.catalogue.validation import validate_folder
from steer_server.errors import CatalogueError, TrainingError
from steer_server.training.trained_on import TRAINED_ON, prompt_hash, read_trained_on, trained_on_text
from tests.support.adapters import TINY, list_text, random_adapter, tiny_base_model
from tests.support.servers import ROOT


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base_model(tmp_path_factory.mktemp("model") / TINY)


def test_a_line_is_the_beginning_of_the_hash_of_a_prompts_words() -> None:
    wanted = hashlib.sha256(b"why do cats purr").hexdigest()[:16]
    assert prompt_hash("Why do cats purr?") == prompt_hash(" why  do CATS purr!") == wanted
    comment, *lines = trained_on_text(["Why do cats purr?", "B", "why do cats purr", "A"]).splitlines()
    assert comment.startswith("#") and lines == sorted(lines) and len(lines) == 3 and wanted in lines


def test_what_was_written_is_read_and_no_file_is_not_known(tmp_path: Path) -> None:
    assert read_trained_on(tmp_path) is None
    (tmp_path / TRAINED_ON).write_text(trained_on_text(["a", "b"]))
    assert read_trained_on(tmp_path) == {prompt_hash("a"), prompt_hash("b")}
    (tmp_path / TRAINED_ON).write_text(trained_on_text([]))
    assert read_trained_on(tmp_path) == frozenset()


@pytest.mark.parametrize("text", ["", "0123456789abcdef\n", "# prompts\nWhy do cats purr?\n"])
def test_another_file_of_this_name_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / TRAINED_ON).write_text(text)
    with pytest.raises(TrainingError, match=r"trained_on\.txt is not a comment and lines of 16 hex digits"):
        read_trained_on(tmp_path)


def test_a_text_that_is_added_to_a_folder_is_checked_like_its_other_files(
    base: BaseModel, tmp_path: Path
) -> None:
    before = random_adapter(tmp_path, "kind", base)
    folder = tmp_path / "kind"
    for units in (["a"], ["a", "b"]):
        manifest = list_text(folder, TRAINED_ON, trained_on_text(units))
        assert [entry.path for entry in manifest.files].count(TRAINED_ON) == 1
        assert read_manifest(folder) == manifest == read_package(folder)
        assert validate_folder(folder, base, max_rank=8).manifest.digest == manifest.digest != before.digest
    (folder / TRAINED_ON).write_text(trained_on_text(["b", "c"]))
    with pytest.raises(CatalogueError, match=TRAINED_ON):
        validate_folder(folder, base, max_rank=8)


def test_every_shipped_head_and_preference_adapter_says_what_it_was_trained_on() -> None:
    folders = [path.parent for path in (ROOT / "adapters").glob("*/adapter.yaml")]
    manifests = {folder: manifest for folder in folders if (manifest := read_manifest(folder)).kind != "lora"}
    assert len(manifests) >= 16
    for folder, manifest in manifests.items():
        assert len(read_trained_on(folder) or ()) > 10
        assert TRAINED_ON in {entry.path for entry in manifest.files}

"""The kind `prompter`: what its manifest must say, and what it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from steer_server.catalogue.aliases import claims
from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.listing import carries
from steer_server.catalogue.manifest import MANIFEST, Manifest
from steer_server.catalogue.snapshot import Catalogue, LoadedAdapter
from steer_server.catalogue.validation import validate_adapter
from steer_server.errors import CatalogueError
from steer_server.frozen.prompter_template import TEMPLATE_VERSION
from tests.support.adapters import TINY, random_adapter, tiny_base_model
from tests.support.prompters import info


@pytest.fixture
def base(tmp_path: Path) -> BaseModel:
    return tiny_base_model(tmp_path / TINY)


def loaded(base: BaseModel, tmp_path: Path, name: str, prompter: str, **more: Any) -> LoadedAdapter:
    random_adapter(tmp_path, name, base, prompter=info(prompter, **more))
    return validate_adapter(tmp_path / name, base, max_rank=8)


def test_a_written_prompter_is_read_as_it_was(base: BaseModel, tmp_path: Path) -> None:
    adapter = loaded(base, tmp_path, "clarity", "clear", culture="amber", aim="clear answers")
    assert adapter.manifest.kind == "prompter" and adapter.manifest.culture is None
    assert adapter.manifest.prompter == info("clear", culture="amber", aim="clear answers")
    assert not adapter.manifest.own_ranks


def test_it_is_found_by_its_id_and_is_no_culture(base: BaseModel, tmp_path: Path) -> None:
    adapter = loaded(base, tmp_path, "clarity", "clear", culture="amber")
    catalogue = Catalogue.of([adapter])
    assert catalogue.prompters == {"clear": adapter} and not catalogue.cultures
    assert catalogue.by_digest[adapter.digest] is adapter
    assert claims(adapter.manifest.model_dump(mode="json")) == {("prompter", "clear")}


def test_two_adapters_cannot_have_one_id(base: BaseModel, tmp_path: Path) -> None:
    both = [loaded(base, tmp_path, name, "clear") for name in ("clarity", "other")]
    with pytest.raises(CatalogueError) as caught:
        Catalogue.of(both)
    assert caught.value.reason == "prompter_taken"


def test_a_prompter_of_another_template_is_refused(base: BaseModel, tmp_path: Path) -> None:
    random_adapter(tmp_path, "clarity", base, prompter=info("clear"))
    path = tmp_path / "clarity" / MANIFEST
    document = yaml.safe_load(path.read_text())
    document["prompter"]["template_version"] = TEMPLATE_VERSION + 1
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(CatalogueError) as caught:
        validate_adapter(tmp_path / "clarity", base, max_rank=8)
    assert caught.value.reason == "template_unknown"


WRONG: dict[str, dict[str, Any]] = {
    "none": {"prompter": None},
    "a culture of its own": {"culture": {"id": "amber"}},
    "another kind": {"kind": "lora", "culture": {"id": "amber"}},
    "axes": {"axes": [{"id": "kind", "rank_index": 0}]},
    "no template": {"prompter": {"id": "clear"}},
    "an id that is no name": {"prompter": {"id": "Clear!", "template_version": 1}},
    "an unknown key": {"prompter": {"id": "clear", "template_version": 1, "goal": "x"}},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_manifest_that_does_not_fit_the_kind_is_refused(base: BaseModel, tmp_path: Path, name: str) -> None:
    manifest = random_adapter(tmp_path, "clarity", base, prompter=info("clear"))
    document = manifest.model_dump(mode="json", exclude_none=True)
    with pytest.raises(ValidationError):
        Manifest.model_validate({**document, **WRONG[name]})


def test_what_it_is_for_is_part_of_its_digest(base: BaseModel, tmp_path: Path) -> None:
    with_prompter = random_adapter(tmp_path, "clarity", base, prompter=info("clear"))
    other = random_adapter(tmp_path, "clarity", base, prompter=info("clear", aim="another"))
    assert with_prompter.digest != other.digest


def test_people_are_told_what_it_is_called_by() -> None:
    assert carries({"prompter": "clear"}) == "prompter clear"

"""Reward heads as packages: what is refused and why, and that they stay out of the bank."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from prometheus_client import CollectorRegistry
from safetensors.torch import load_file, save_file

from steer_server.app import attach, start
from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.folders import describe_files
from steer_server.catalogue.loader import largest_rank, load_directory
from steer_server.catalogue.manifest import MANIFEST
from steer_server.catalogue.reward_head import (
    HEAD_CONFIG,
    HEAD_WEIGHTS,
)
from steer_server.catalogue.validation import validate_adapter, validate_folder
from steer_server.engine.fake import FakeEngine
from steer_server.errors import CatalogueError
from steer_server.metrics import Metrics
from steer_server.settings import Settings
from tests.support.adapters import TINY, random_adapter, tiny_base_model
from tests.support.heads import random_head


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base_model(tmp_path_factory.mktemp("model") / TINY)


@pytest.fixture
def folder(tmp_path: Path, base: BaseModel) -> Path:
    random_head(tmp_path, "head-good", base, culture="a")
    return tmp_path / "head-good"


def edit_manifest(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        document = yaml.safe_load((folder / MANIFEST).read_text())
        change(document)
        (folder / MANIFEST).write_text(yaml.safe_dump(document))

    return apply


def resign(folder: Path) -> None:
    entries = [e.model_dump() for e in describe_files(folder, [HEAD_CONFIG, HEAD_WEIGHTS])]
    edit_manifest(lambda m: m.update(files=entries))(folder)


def edit_tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / HEAD_WEIGHTS)
        change(tensors)
        save_file(tensors, folder / HEAD_WEIGHTS)
        resign(folder)

    return apply


def edit_config(**changes: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        config = json.loads((folder / HEAD_CONFIG).read_text())
        (folder / HEAD_CONFIG).write_text(json.dumps({**config, **changes}))
        resign(folder)

    return apply


def pickle_weights(folder: Path) -> None:
    (folder / HEAD_WEIGHTS).write_bytes(b"\x80\x04K\x01.")
    resign(folder)


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "no head id": (edit_manifest(lambda m: m.pop("head")), "manifest_invalid"),
    "axes": (edit_manifest(lambda m: m.update(axes=[{"id": "x", "rank_index": 0}])), "manifest_invalid"),
    "a lora with a head id": (edit_manifest(lambda m: m.update(kind="lora")), "manifest_invalid"),
    "weights that are not listed": (edit_manifest(lambda m: m["files"].pop()), "manifest_invalid"),
    "another base model": (edit_manifest(lambda m: m.update(base_model="x")), "base_model_mismatch"),
    "a changed config": (
        lambda f: (f / HEAD_CONFIG).write_text((f / HEAD_CONFIG).read_text() + " "),
        "size_mismatch",
    ),
    "an unknown key": (edit_config(layr="x"), "head_config_invalid"),
    "another layer": (edit_config(layer="12"), "head_config_invalid"),
    "a calibration that is not finite": (
        edit_config(calibration={"scale": float("inf")}),
        "head_config_invalid",
    ),
    "another width": (edit_config(hidden_size=64), "wrong_shape"),
    "a pickle": (pickle_weights, "pickle"),
    "a foreign tensor": (edit_tensors(lambda t: t.update(more=torch.ones(1))), "foreign_tensor"),
    "no bias": (edit_tensors(lambda t: t.pop("bias")), "no_tensors"),
    "a matrix": (edit_tensors(lambda t: t.update(weight=torch.ones(1, 32))), "wrong_shape"),
    "half precision": (edit_tensors(lambda t: t.update(weight=t["weight"].half())), "wrong_dtype"),
    "a NaN": (edit_tensors(lambda t: t["weight"][0].fill_(float("nan"))), "not_finite"),
    "zero weights": (edit_tensors(lambda t: t["weight"].zero_()), "no_effect"),
    "a key twice": (
        lambda f: (
            (f / HEAD_CONFIG).write_text((f / HEAD_CONFIG).read_text().replace("{", '{"split": "judge",', 1)),
            resign(f),
        ),
        "head_config_invalid",
    ),
    "enormous weights": (edit_tensors(lambda t: t["weight"].fill_(1e9)), "norm_too_large"),
}


@pytest.mark.parametrize(("spoil", "reason"), BAD.values(), ids=BAD.keys())
def test_a_bad_head_is_refused_with_its_reason(
    folder: Path, base: BaseModel, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(folder)
    with pytest.raises(CatalogueError) as caught:
        validate_folder(folder, base, max_rank=8)
    assert caught.value.reason == reason


def test_a_head_needs_no_culture_and_a_panacea_may_not_have_one(folder: Path, base: BaseModel) -> None:
    edit_manifest(lambda m: m.pop("culture"))(folder)
    assert validate_folder(folder, base, max_rank=8).manifest.culture is None
    random_adapter(folder.parent, "compass", base, axes=["helpful"])
    edit_manifest(lambda m: m.update(culture={"id": "x"}))(folder.parent / "compass")
    with pytest.raises(CatalogueError, match="other kinds do not"):
        validate_folder(folder.parent / "compass", base, max_rank=8)


def test_a_head_is_no_adapter_for_the_bank(folder: Path, base: BaseModel) -> None:
    with pytest.raises(CatalogueError, match="does not go into the bank"):
        validate_adapter(folder, base, max_rank=8)


def test_a_head_may_bear_the_culture_of_an_adapter_and_counts_for_no_rank(
    tmp_path: Path, base: BaseModel
) -> None:
    random_adapter(tmp_path, "a", base, rank=2)
    random_head(tmp_path, "head-a", base)
    catalogue, refused = load_directory(tmp_path, base, max_rank=8)
    assert refused == () and [adapter.name for adapter in catalogue.adapters] == ["a"]
    assert list(catalogue.reward_heads) == ["a"] and list(catalogue.cultures) == ["a"]
    assert largest_rank(tmp_path) == 2


def test_two_heads_cannot_claim_one_id(tmp_path: Path, base: BaseModel) -> None:
    random_head(tmp_path, "head-a", base)
    random_head(tmp_path, "judge-a", base, head="a")
    _, refused = load_directory(tmp_path, base, max_rank=8)
    assert [(r.folder_name, r.reason) for r in refused] == [("judge-a", "head_taken")]


async def test_the_server_lists_heads_and_does_not_probe_them(tmp_path: Path, base: BaseModel) -> None:
    adapters = tmp_path / "adapters"
    random_adapter(adapters, "a", base)
    random_head(adapters, "head-b", base)
    settings = Settings(
        model=base.path, served_model_name="fake", bank_rank=8, adapters=adapters, data=tmp_path / "data"
    )
    app = FastAPI()
    attach(app)
    server = await start(app.state, FakeEngine(num_slots=1), settings, Metrics(CollectorRegistry()))
    assert list(server.catalogue.snapshot.reward_heads) == ["b"] and server.catalogue.refused == ()
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as http:
        listed = {a["name"]: a for a in (await http.get("/v1/adapters")).json()["data"]}
        refused = await http.post("/v1/steering/plan", json={"steering": {"reward_heads": ["b"]}})
    await server.catalogue.close()
    assert (listed["a"]["state"], listed["head-b"]["state"]) == ("active", "active")
    assert (listed["head-b"]["kind"], listed["head-b"]["head"]) == ("reward_head", "b")
    assert refused.status_code == 400

"""Bad packages: each is refused with its own reason, and names what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.folders import describe_files
from steer_server.catalogue.loader import DEFAULT_RANK, largest_rank, load_directory, with_bank_size
from steer_server.catalogue.manifest import MANIFEST, PEFT_CONFIG, WEIGHTS, read_manifest
from steer_server.catalogue.tensor_file import read_tensor_header
from steer_server.catalogue.validation import validate_adapter
from steer_server.errors import CatalogueError, ConfigError
from steer_server.settings import Settings
from tests.support.adapters import random_adapter, tiny_base_model

Q_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
Q_B = Q_A.replace("lora_A", "lora_B")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(tmp_path: Path, base: BaseModel) -> Path:
    random_adapter(tmp_path, "good", base)
    return tmp_path / "good"


def edit_manifest(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        document = yaml.safe_load((folder / MANIFEST).read_text())
        change(document)
        (folder / MANIFEST).write_text(yaml.safe_dump(document))

    return apply


def resign(folder: Path) -> None:
    """Makes the manifest's sizes and hashes true again."""
    entries = [e.model_dump() for e in describe_files(folder, [PEFT_CONFIG, WEIGHTS])]
    edit_manifest(lambda m: m.update(files=entries))(folder)


def edit_tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)
        resign(folder)

    return apply


def edit_peft(**changes: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        config = json.loads((folder / PEFT_CONFIG).read_text())
        (folder / PEFT_CONFIG).write_text(json.dumps({**config, **changes}))
        resign(folder)

    return apply


def write_bytes(name: str, content: bytes, *, truthful: bool = True) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_bytes(content)
        if truthful:
            resign(folder)

    return apply


def truncate_weights(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    resign(folder)


def flip_last_byte(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)


def link_weights(folder: Path) -> None:
    shutil.move(folder / WEIGHTS, folder.parent / "elsewhere.safetensors")
    (folder / WEIGHTS).symlink_to(folder.parent / "elsewhere.safetensors")


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "manifest_missing"),
    "a manifest that is not YAML": (write_bytes(MANIFEST, b"[", truthful=False), "manifest_unreadable"),
    "a manifest that is a list": (write_bytes(MANIFEST, b"[1]", truthful=False), "manifest_unreadable"),
    "a manifest that is binary": (
        write_bytes(MANIFEST, b"\xff\xfe\x00", truthful=False),
        "manifest_unreadable",
    ),
    "a huge manifest": (write_bytes(MANIFEST, b"#" * 300_000, truthful=False), "manifest_too_large"),
    "an unknown key": (edit_manifest(lambda m: m.update(autor="x")), "manifest_invalid"),
    "an unknown kind": (edit_manifest(lambda m: m.update(kind="gguf")), "manifest_invalid"),
    "a later schema": (edit_manifest(lambda m: m.update(schema_version=2)), "manifest_invalid"),
    "a name with a separator": (edit_manifest(lambda m: m.update(name="a@b")), "manifest_invalid"),
    "no culture": (edit_manifest(lambda m: m.pop("culture")), "manifest_invalid"),
    "a country that is no code": (
        edit_manifest(lambda m: m["culture"].update(countries=["Chile"])),
        "manifest_invalid",
    ),
    "a path upwards": (
        edit_manifest(lambda m: m["files"].append({**m["files"][0], "path": "../x"})),
        "manifest_invalid",
    ),
    "an absolute path": (
        edit_manifest(lambda m: m["files"].append({**m["files"][0], "path": "/etc/passwd"})),
        "manifest_invalid",
    ),
    "weights that are not listed": (edit_manifest(lambda m: m["files"].pop()), "manifest_invalid"),
    "another base model": (edit_manifest(lambda m: m.update(base_model="Llama-70B")), "base_model_mismatch"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "file_missing"),
    "weights behind a link": (link_weights, "file_missing"),
    "another size than stated": (
        edit_manifest(lambda m: m["files"][1].update(size_bytes=5)),
        "size_mismatch",
    ),
    "a flipped bit": (flip_last_byte, "sha256_mismatch"),
    "a PEFT config that is not JSON": (write_bytes(PEFT_CONFIG, b"{"), "peft_config_unreadable"),
    "another PEFT method": (edit_peft(peft_type="PREFIX_TUNING"), "not_a_lora"),
    "DoRA": (edit_peft(use_dora=True), "unsupported_option"),
    "a bias": (edit_peft(bias="all"), "unsupported_option"),
    "whole modules": (edit_peft(modules_to_save=["lm_head"]), "unsupported_option"),
    "ranks by layer": (edit_peft(rank_pattern={"q_proj": 2}), "unsupported_option"),
    "a rank of zero": (edit_peft(r=0), "bad_rank"),
    "a rank above the bank's": (edit_peft(r=64), "rank_too_large"),
    "an alpha that is no number": (edit_peft(lora_alpha="8"), "bad_alpha"),
    "truncated weights": (truncate_weights, "weights_truncated"),
    "a pickle": (write_bytes(WEIGHTS, b"\x80\x04K\x01."), "pickle"),
    "a huge header": (write_bytes(WEIGHTS, (2**62).to_bytes(8, "little") + b"{}"), "header_too_large"),
    "a tensor of another model": (
        edit_tensors(lambda t: t.update({Q_A.replace("layers.0", "layers.9"): t[Q_A].clone()})),
        "foreign_tensor",
    ),
    "a tensor that is no LoRA": (
        edit_tensors(lambda t: t.update({"lm_head.weight": torch.ones(2, 2)})),
        "foreign_tensor",
    ),
    "a smaller model's shapes": (
        edit_tensors(lambda t: t.update({Q_A: t[Q_A][:, :16].clone()})),
        "wrong_shape",
    ),
    "another rank than stated": (edit_peft(r=2), "wrong_shape"),
    "whole numbers": (edit_tensors(lambda t: t.update({Q_A: t[Q_A].to(torch.int8)})), "wrong_dtype"),
    "half a pair": (edit_tensors(lambda t: t.pop(Q_B)), "half_a_pair"),
    "no tensors": (edit_tensors(lambda t: t.clear()), "no_tensors"),
    "a NaN": (edit_tensors(lambda t: t[Q_A][0].fill_(float("nan"))), "not_finite"),
    "an infinity": (edit_tensors(lambda t: t[Q_B][0].fill_(float("inf"))), "not_finite"),
    "an enormous update": (edit_tensors(lambda t: t[Q_B].fill_(1e30)), "norm_too_large"),
}


@pytest.mark.parametrize(("spoil", "reason"), BAD.values(), ids=BAD.keys())
def test_a_bad_package_is_refused_with_its_reason(
    folder: Path, base: BaseModel, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(folder)
    with pytest.raises(CatalogueError) as caught:
        validate_adapter(folder, base, max_rank=8)
    assert caught.value.reason == reason


def test_a_good_package_is_accepted(folder: Path, base: BaseModel) -> None:
    adapter = validate_adapter(folder, base, max_rank=8)
    assert (adapter.title, adapter.rank) == ("good@1.0.0", 4)


def test_an_axis_beyond_the_rank_is_refused(tmp_path: Path, base: BaseModel) -> None:
    random_adapter(tmp_path, "compass", base, axes=["helpful", "harmless"])
    edit_manifest(lambda m: m["axes"][0].update(rank_index=9))(tmp_path / "compass")
    with pytest.raises(CatalogueError, match="axis_out_of_range"):
        validate_adapter(tmp_path / "compass", base, max_rank=8)


def test_an_axis_that_does_nothing_is_refused_by_name(tmp_path: Path, base: BaseModel) -> None:
    random_adapter(tmp_path, "compass", base, axes=["helpful", "harmless"])
    edit_tensors(lambda t: [b[:, 3].zero_() for key, b in t.items() if ".lora_B." in key])(
        tmp_path / "compass"
    )
    with pytest.raises(CatalogueError, match="axis_no_effect: axis harmless"):
        validate_adapter(tmp_path / "compass", base, max_rank=8)


def test_one_layer_may_stay_as_it_is(folder: Path, base: BaseModel) -> None:
    edit_tensors(lambda t: t[Q_B].zero_())(folder)
    assert validate_adapter(folder, base, max_rank=8).rank == 4


def test_all_float_types_are_read_as_they_are(folder: Path, base: BaseModel) -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        edit_tensors(lambda t, dtype=dtype: t.update({key: v.to(dtype) for key, v in t.items()}))(folder)
        assert validate_adapter(folder, base, max_rank=8).rank == 4


def test_a_header_that_begins_like_a_pickle_is_no_pickle(tmp_path: Path) -> None:
    header = b'{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(0x280)
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert list(read_tensor_header(tmp_path / "x.safetensors", "x", 1000)) == ["t"]


def test_the_digest_covers_every_file_that_the_engine_reads(folder: Path, base: BaseModel) -> None:
    before = read_manifest(folder).digest
    write_bytes("README.md", b"another card")(folder)
    assert read_manifest(folder).digest == before
    edit_peft(lora_alpha=3)(folder)
    assert read_manifest(folder).digest != before


def test_the_base_models_own_trouble_is_not_the_adapters(folder: Path, tmp_path: Path) -> None:
    lost = BaseModel(str(tmp_path / "lost"), "fake", frozenset({"tiny-llama"}))
    with pytest.raises(OSError):
        validate_adapter(folder, lost, max_rank=8)


def test_an_axis_may_have_several_ranks_which_count_in_the_digest(tmp_path: Path, base: BaseModel) -> None:
    random_adapter(tmp_path, "compass", base, axes=["left", "right"])
    before = read_manifest(tmp_path / "compass")
    assert before.own_ranks == {"axis left": range(2, 3), "axis right": range(3, 4)}
    edit_manifest(lambda m: m["axes"][0].update(rank_index=0, num_ranks=3))(tmp_path / "compass")
    after = validate_adapter(tmp_path / "compass", base, max_rank=8).manifest
    assert after.own_ranks == {"axis left": range(0, 3), "axis right": range(3, 4)}
    assert after.digest != before.digest

    edit_manifest(lambda m: m["axes"][0].update(rank_index=1))(tmp_path / "compass")
    with pytest.raises(CatalogueError, match="share an id or a rank"):
        validate_adapter(tmp_path / "compass", base, max_rank=8)


def test_the_digest_changes_with_the_weights_and_not_with_the_folder(tmp_path: Path, base: BaseModel) -> None:
    first = random_adapter(tmp_path / "1", "x", base, seed=1)
    same = random_adapter(tmp_path / "2", "x", base, seed=1)
    other = random_adapter(tmp_path / "3", "x", base, seed=2)
    assert first.digest == same.digest != other.digest
    assert read_manifest(tmp_path / "1" / "x").digest == first.digest


def test_one_bad_adapter_does_not_keep_out_the_others(tmp_path: Path, base: BaseModel) -> None:
    for name in ("a", "b", "c"):
        random_adapter(tmp_path, name, base)
    flip_last_byte(tmp_path / "b")
    catalogue, refused = load_directory(tmp_path, base, max_rank=8)
    assert list(catalogue.cultures) == ["a", "c"]
    assert [(r.folder_name, r.reason) for r in refused] == [("b", "sha256_mismatch")]


def test_two_adapters_cannot_claim_one_culture(tmp_path: Path, base: BaseModel) -> None:
    random_adapter(tmp_path, "a", base)
    random_adapter(tmp_path, "b", base)
    edit_manifest(lambda m: m["culture"].update(id="a"))(tmp_path / "b")
    _, refused = load_directory(tmp_path, base, max_rank=8)
    assert [(r.folder_name, r.reason) for r in refused] == [("b", "culture_taken")]


def test_a_missing_directory_stops_the_start(tmp_path: Path, base: BaseModel) -> None:
    with pytest.raises(ConfigError):
        load_directory(tmp_path / "nowhere", base, max_rank=8)


def test_the_bank_can_be_sized_by_the_largest_rank(tmp_path: Path, base: BaseModel) -> None:
    random_adapter(tmp_path, "a", base, rank=2)
    random_adapter(tmp_path, "b", base, rank=6)
    assert largest_rank(tmp_path) == 6 and largest_rank(None) == 0
    settings = Settings(model=base.path)
    assert with_bank_size(settings).bank_rank == DEFAULT_RANK
    assert with_bank_size(settings, tmp_path).bank_rank == 6, "what was pushed before a restart counts too"
    assert with_bank_size(settings.model_copy(update={"bank_rank": 3}), tmp_path).bank_rank == 3
    (tmp_path / "a" / PEFT_CONFIG).write_text('{"r": 500}')
    (tmp_path / "b" / PEFT_CONFIG).write_text("{")
    assert largest_rank(tmp_path) == 0

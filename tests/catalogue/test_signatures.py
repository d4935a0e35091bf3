"""Signatures: what each policy accepts, and that other programs understand them."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import rsa

from steer_server.catalogue.manifest import CARD, SIGNATURE
from steer_server.catalogue.package import pack, stage_archive
from steer_server.catalogue.signatures import (
    SignaturePolicy,
    SignatureState,
    generate_key,
    read_public_keys,
    sign,
    verify,
)
from steer_server.errors import CatalogueError, ConfigError
from tests.catalogue.bench import good_package, make_keys, written
from tests.catalogue.test_package import pieces
from tests.support.adapters import tiny_base_model


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_keys(tmp_path_factory.mktemp("keys") / "keys")


@pytest.fixture(scope="module")
def trusted(keys: Path) -> Mapping[str, Path]:
    return read_public_keys([keys / "trusted.pub"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return good_package(tmp_path / "packages", "good", tiny_base_model(tmp_path / "model"))


async def test_a_signature_survives_packing_and_another_folder_name(
    folder: Path, keys: Path, trusted: Mapping[str, Path], tmp_path: Path
) -> None:
    sign(folder, keys / "trusted.key")
    async with stage_archive(pieces(b"".join(pack(folder))), tmp_path) as package:
        status = await asyncio.to_thread(verify, package.folder, trusted, SignaturePolicy.REQUIRE)
    assert status.state is SignatureState.VALID and {status.fingerprint} == set(trusted)


def test_warn_reports_and_refuses_nothing(folder: Path, keys: Path, trusted: Mapping[str, Path]) -> None:
    found = [verify(folder, trusted, SignaturePolicy.WARN)]
    sign(folder, keys / "stranger.key")
    found.append(verify(folder, trusted, SignaturePolicy.WARN))
    sign(folder, keys / "trusted.key")
    written(CARD, "other")(folder)
    found.append(verify(folder, trusted, SignaturePolicy.WARN))
    assert [status.state for status in found] == [
        SignatureState.UNSIGNED,
        SignatureState.UNKNOWN_KEY,
        SignatureState.INVALID,
    ]
    assert CARD in found[2].detail and verify(folder, {}, SignaturePolicy.OFF).state == "unchecked"


def test_an_error_names_the_adapter(folder: Path, trusted: Mapping[str, Path]) -> None:
    with pytest.raises(CatalogueError) as caught:
        verify(folder, trusted, SignaturePolicy.REQUIRE, label="amber")
    assert (caught.value.adapter, caught.value.reason) == ("amber", "unsigned")


def test_signing_again_replaces_the_signature(folder: Path, keys: Path, trusted: Mapping[str, Path]) -> None:
    sign(folder, keys / "stranger.key")
    assert sign(folder, keys / "trusted.key") == folder / SIGNATURE
    assert verify(folder, trusted, SignaturePolicy.REQUIRE).state is SignatureState.VALID
    assert sorted(path.name for path in folder.iterdir() if "sig" in path.name) == [SIGNATURE]


def test_openssfs_own_program_understands_our_signatures_and_we_its(
    folder: Path, keys: Path, trusted: Mapping[str, Path], tmp_path: Path
) -> None:
    sign(folder, keys / "trusted.key")
    program = [sys.executable, "-m", "model_signing"]
    options = ["--signature", str(folder / SIGNATURE), "--ignore-paths", str(folder / SIGNATURE)]
    check = [*program, "verify", "key", str(folder), *options, "--public_key", str(keys / "trusted.pub")]
    assert subprocess.run(check, capture_output=True).returncode == 0
    (folder / SIGNATURE).unlink()
    make = [*program, "sign", "key", str(folder), *options, "--private_key", str(keys / "trusted.key")]
    assert subprocess.run(make, capture_output=True).returncode == 0
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert verify(moved, trusted, SignaturePolicy.REQUIRE).state is SignatureState.VALID


def test_a_damaged_signature_is_never_more_than_invalid(
    folder: Path, keys: Path, trusted: Mapping[str, Path]
) -> None:
    bundle = json.loads(sign(folder, keys / "trusted.key").read_text())
    envelope = bundle["dsseEnvelope"]
    for damaged in (
        {},
        [],
        {**bundle, "mediaType": "x"},
        {**bundle, "verificationMaterial": {"publicKey": {"hint": None}}},
        {**bundle, "verificationMaterial": {"publicKey": {"hint": ["x"]}}},
        {**bundle, "dsseEnvelope": {**envelope, "signatures": []}},
        {**bundle, "dsseEnvelope": {**envelope, "payload": "AAAA"}},
        {**bundle, "dsseEnvelope": {**envelope, "payloadType": "text/plain"}},
        {**bundle, "dsseEnvelope": {**envelope, "signatures": [{"sig": "AAAA", "keyid": ""}]}},
    ):
        (folder / SIGNATURE).write_text(json.dumps(damaged))
        assert verify(folder, trusted, SignaturePolicy.WARN).state is SignatureState.INVALID


def test_a_private_key_is_its_owners_and_is_never_overwritten(tmp_path: Path) -> None:
    private, public = tmp_path / "key", tmp_path / "key.pub"
    fingerprint = generate_key(private, public)
    assert private.stat().st_mode & 0o777 == 0o600
    assert list(read_public_keys([public])) == [fingerprint]
    before = private.read_bytes()
    for pair in ((private, tmp_path / "new.pub"), (tmp_path / "new", public), (tmp_path / "x/y", public)):
        with pytest.raises(ConfigError):
            generate_key(*pair)
    assert private.read_bytes() == before and not (tmp_path / "new.pub").exists()


def test_keys_that_cannot_be_used_stop_the_start(tmp_path: Path, folder: Path, keys: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    (tmp_path / "rsa.pub").write_bytes(
        key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
    )
    (tmp_path / "rubbish.pub").write_text("rubbish")
    for name in ("rsa.pub", "rubbish.pub", "missing.pub"):
        with pytest.raises(ConfigError, match=name):
            read_public_keys([tmp_path / name])
    for path in (tmp_path / "rubbish.pub", keys / "trusted.pub", tmp_path / "missing.key"):
        with pytest.raises(ConfigError):
            sign(folder, path)
    assert not (folder / SIGNATURE).exists()

"""OpenSSF model signatures with plain elliptic-curve keys: who made a package, and that nobody changed it.

The signature file `model.sig` is a Sigstore bundle, as `model_signing sign key` writes it, over the name and
sha256 of every file of the folder but itself. A key's fingerprint is the sha256 of its public half in PEM,
the same hint that the format itself stores. Every function here is blocking.

Not covered: keyless signatures, certificates, revocation other than taking a key out of the trusted ones.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from steer_server.catalogue.manifest import SIGNATURE
from steer_server.catalogue.package import read_package
from steer_server.errors import CatalogueError, ConfigError

MAX_SIGNATURE_BYTES = 256 * 1024
CURVES = ("secp256r1", "secp384r1", "secp521r1")


class SignaturePolicy(StrEnum):
    OFF = "off"
    """Signatures are not looked at."""
    WARN = "warn"
    """They are checked and reported; nothing is refused for its signature."""
    REQUIRE = "require"
    """Only packages that a trusted key signed, unchanged, are accepted."""


class SignatureState(StrEnum):
    UNCHECKED = "unchecked"
    UNSIGNED = "unsigned"
    VALID = "valid"
    INVALID = "signature_invalid"
    """The file is no signature, or not one over these files."""
    UNKNOWN_KEY = "signature_unknown_key"
    """It names a key that is not trusted here, so nothing else was looked at."""


@dataclass(frozen=True)
class SignatureStatus:
    """What the check found."""

    state: SignatureState
    fingerprint: str | None = None
    """Of the key that the signature names. Proven only when the state is `valid`."""
    detail: str = ""


def generate_key(private: Path, public: Path) -> str:
    """Writes a new key pair as PEM, the private half readable by its owner alone. Returns: the fingerprint.

    Raises: ConfigError when either file exists or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    shared = key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
    for path in (private, public):
        if path.exists():
            raise ConfigError(f"{path} exists; keys are not overwritten")
    for path, content, mode in ((private, secret, 0o600), (public, shared, 0o644)):
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(content)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
    return hashlib.sha256(shared).hexdigest()


def read_public_keys(paths: Iterable[Path]) -> Mapping[str, Path]:
    """The trusted keys by fingerprint, from PEM files.

    Raises: ConfigError naming a file that is missing or is no elliptic-curve public key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec

    keys = {}
    for path in paths:
        try:
            key = s.load_pem_public_key(path.read_bytes())
        except (OSError, ValueError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"{path}: not a public key in PEM: {error}") from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
            raise ConfigError(f"{path}: not an elliptic-curve key on one of {', '.join(CURVES)}")
        shared = key.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
        keys[hashlib.sha256(shared).hexdigest()] = path.resolve()
    return keys


def sign(folder: Path, private_key: Path) -> Path:
    """Signs a package folder. Returns: the signature file, which replaces an earlier one.

    Raises: ConfigError when the key cannot be used; CatalogueError when the folder is no package, because a
        signature would cover files that no upload may hold.
    """
    from model_signing import signing

    read_package(folder)
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=private_key)
    # The library passes on whatever its dependencies raise over what is no unencrypted EC key.
    except Exception as error:
        raise ConfigError(f"{private_key}: not an elliptic-curve private key in PEM: {error}") from error
    config.set_hashing_config(_hashing()).sign(folder, folder / SIGNATURE)
    return folder / SIGNATURE


def verify(
    folder: Path, trusted: Mapping[str, Path], policy: SignaturePolicy, *, label: str = ""
) -> SignatureStatus:
    """What the signature of a package folder is worth.

    Args:
        trusted: as `read_public_keys` returns.
        label: what an error calls the adapter, when not by its folder.

    Raises: CatalogueError under `require`: unsigned, signature_invalid, signature_unknown_key.
    """
    if policy is SignaturePolicy.OFF:
        return SignatureStatus(SignatureState.UNCHECKED)
    status = _status(folder, trusted)
    if policy is SignaturePolicy.REQUIRE and status.state is not SignatureState.VALID:
        raise CatalogueError(label or folder.name, status.state.value, status.detail)
    return status


def _status(folder: Path, trusted: Mapping[str, Path]) -> SignatureStatus:
    from model_signing import verifying

    path = folder / SIGNATURE
    if path.is_symlink() or not path.is_file():
        return SignatureStatus(SignatureState.UNSIGNED, detail=f"no {SIGNATURE}")
    fingerprint = None
    try:
        bundle = _read_bundle(path)
        fingerprint = bundle["verificationMaterial"]["publicKey"]["hint"]
        if not isinstance(fingerprint, str) or len(fingerprint) != 64:
            raise ValueError("it names no key")
        if fingerprint not in trusted:
            detail = f"signed by a key that is not trusted here: {fingerprint!a}"
            return SignatureStatus(SignatureState.UNKNOWN_KEY, fingerprint, detail)
        config = verifying.Config().use_elliptic_key_verifier(public_key=trusted[fingerprint])
        config.set_hashing_config(_hashing()).verify(folder, path)
        # The library leaves out whatever the signed list says is to be ignored; nothing may be.
        if unsigned := _file_names(folder) - _signed_names(bundle):
            raise ValueError(f"not covered: {', '.join(sorted(unsigned))}")
    # The library parses a hostile file with whatever comes: KeyError, TypeError, pydantic's and its own.
    except Exception as error:
        detail = " ".join(f"{SIGNATURE}: {error or type(error).__name__}".split())[:400]
        return SignatureStatus(SignatureState.INVALID, fingerprint, detail)
    return SignatureStatus(SignatureState.VALID, fingerprint)


def _read_bundle(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_SIGNATURE_BYTES:
        raise ValueError(f"over {MAX_SIGNATURE_BYTES} bytes")
    bundle = json.loads(path.read_bytes())
    if not isinstance(bundle, dict):
        raise ValueError("not a Sigstore bundle")
    return bundle


def _signed_names(bundle: dict[str, Any]) -> set[str]:
    try:
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    except binascii.Error as error:
        raise ValueError("the payload is not base64") from error
    return {resource["name"] for resource in statement["predicate"]["resources"]}


def _file_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {SIGNATURE}


def _hashing() -> Any:
    """sha256 of every file but the signature; files of git count too."""
    from model_signing import hashing

    config = hashing.Config().use_file_serialization(hashing_algorithm="sha256", max_workers=2)
    return config.set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)

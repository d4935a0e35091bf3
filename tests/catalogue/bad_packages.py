"""Packages that must be refused: what is wrong with each, and the one reason that must be given.

Each is made from a good package for any base model, so the same corpus is sent through the checks directly
and to a running server.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from steer_server.catalogue.folders import describe_files
from steer_server.catalogue.intake import PackageLimits
from steer_server.catalogue.manifest import CARD, MANIFEST, PEFT_CONFIG, SIGNATURE, WEIGHTS
from steer_server.catalogue.signatures import SignaturePolicy, sign
from tests.catalogue.archives import (
    MEGABYTES,
    add,
    bomb,
    bulky,
    gz_with_wrong_checksum,
    in_tar,
    in_zip,
    patched_zip,
    tar_gz,
    tar_of,
    tar_that_overstates_a_size,
    tar_with,
    tar_with_rubbish_behind_a_member,
    tar_without_end,
    truncated,
    zip_symlink,
    zip_with,
    zip_with_a_nul_in_a_name,
    zip_with_changed_bytes,
)
from tests.catalogue.bench import (
    Bench,
    appended_to_manifest,
    file,
    header,
    linked_weights,
    manifest,
    moved,
    peft,
    raw_header,
    replaced,
    small_weights_in_large_matrices,
    tensors,
    twice_in_the_header,
    weights,
    written,
)

SMALL = PackageLimits(
    compressed_bytes=3 * 2**20, file_bytes=2 * 2**20, unpacked_bytes=3 * 2**20, num_files=8, ratio=10**6
)


@dataclass(frozen=True)
class BadPackage:
    name: str
    reason: str
    make: Callable[[Bench], bytes | Path]
    """Bytes are an archive to be sent, a path is a folder to be taken from."""
    limits: PackageLimits | None = None
    """Smaller ones that it needs, to be too large."""
    policy: SignaturePolicy = SignaturePolicy.OFF
    """It is bad only where signatures are required."""


def spoilt(*spoil: Callable[[Path], object]) -> Callable[[Bench], bytes]:
    """The good package with its files changed, as a tar."""

    def make(bench: Bench) -> bytes:
        for change in spoil:
            change(bench.folder)
        return tar_of(bench.folder, top="package/")

    return make


def in_folder(*spoil: Callable[[Path], object]) -> Callable[[Bench], Path]:
    """The same as a folder on the server's machine."""

    def make(bench: Bench) -> Path:
        for change in spoil:
            change(bench.folder)
        return bench.folder

    return make


def linked_from_outside(bench: Bench) -> Path:
    outside = bench.folder.parents[1] / "outside"
    shutil.move(bench.folder, outside)
    bench.folder.symlink_to(outside, target_is_directory=True)
    return bench.folder


def signed(by: str, *spoil: Callable[[Path], object]) -> Callable[[Bench], bytes]:
    def make(bench: Bench) -> bytes:
        sign(bench.folder, bench.keys / f"{by}.key")
        return spoilt(*spoil)(bench)

    return make


def signature_of_another(bench: Bench) -> bytes:
    other = bench.folder.parents[1] / "other"
    shutil.copytree(bench.folder, other)
    manifest(lambda m: m.update(name="other"))(other)
    shutil.copy(sign(other, bench.keys / "trusted.key"), bench.folder / SIGNATURE)
    return tar_of(bench.folder)


def signature_that_leaves_out_the_weights(bench: Bench) -> bytes:
    from model_signing import hashing, signing

    config = signing.Config().use_elliptic_key_signer(private_key=bench.keys / "trusted.key")
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[SIGNATURE, WEIGHTS]))
    config.sign(bench.folder, bench.folder / SIGNATURE)
    return tar_of(bench.folder)


def signature_in_anothers_name(bench: Bench) -> bytes:
    """By the stranger's key, saying that it was the trusted one."""
    other = bench.folder.parents[1] / "other"
    shutil.copytree(bench.folder, other)
    trusted = json.loads(sign(other, bench.keys / "trusted.key").read_text())
    forged = json.loads(sign(bench.folder, bench.keys / "stranger.key").read_text())
    forged["verificationMaterial"] = trusted["verificationMaterial"]
    (bench.folder / SIGNATURE).write_text(json.dumps(forged))
    return tar_of(bench.folder)


BOMB = "a: &a [x, x, x, x]\nb: &b [*a, *a, *a, *a]\nc: &c [*b, *b, *b, *b]\nd: [*c, *c, *c, *c]\n"
SPARSE = {f"GNU.sparse.{k}": v for k, v in {"major": "1", "minor": "0", "name": "s.json"}.items()}

ARCHIVES: list[tuple[str, str, Callable[[Bench], bytes]]] = [
    ("nothing at all", "archive_unknown_format", lambda bench: b""),
    ("another format", "archive_unknown_format", lambda bench: b"7z\xbc\xaf\x27\x1c" + bytes(2000)),
    ("a gzip of no tar", "archive_unknown_format", lambda bench: gzip.compress(b"hello" * 500)),
    ("an empty folder", "empty_package", lambda bench: tar_with(lambda t: add(t, "p/", type=b"5"))),
    ("a truncated tar", "archive_truncated", truncated(lambda b: tar_of(b.folder), 0.4)),
    ("a tar without its end", "archive_truncated", tar_without_end),
    ("a truncated tar.gz", "archive_truncated", truncated(tar_gz, 0.6)),
    ("a truncated zip", "archive_truncated", truncated(lambda b: zip_with(lambda z: None, b.folder), 0.6)),
    ("a tar that overstates a size", "archive_truncated", tar_that_overstates_a_size),
    ("a tar with a damaged header", "archive_corrupt", tar_with_rubbish_behind_a_member),
    ("a tar with a negative size", "archive_corrupt", in_tar("n.json", pax_headers={"size": "-1024"})),
    (
        "a tar with an enormous header",
        "archive_corrupt",
        in_tar("p.json", pax_headers={"comment": "1" * 10**6}),
    ),
    ("a gzip with a wrong checksum", "archive_corrupt", gz_with_wrong_checksum),
    ("a zip with a wrong checksum", "archive_corrupt", zip_with_changed_bytes),
    ("a zip that understates a size", "archive_corrupt", patched_zip(22, 24, b"\x01\0\0\0")),
    ("an encrypted zip", "archive_encrypted", patched_zip(6, 8, b"\x01\0")),
    (
        "a zip compressed with LZMA",
        "archive_unsupported",
        lambda bench: zip_with(lambda z: z.writestr("l.json", b"x" * 99, zipfile.ZIP_LZMA)),
    ),
    ("a symbolic link in a tar", "symlink", in_tar("l.json", type=b"2", linkname="/etc/passwd")),
    ("a symbolic link in a zip", "symlink", zip_symlink),
    ("a hard link", "hard_link", in_tar("h.json", type=b"1", linkname="../../etc/passwd")),
    ("a device", "special_file", in_tar("null.json", type=b"3", devmajor=1, devminor=3)),
    ("a named pipe", "special_file", in_tar("pipe.json", type=b"6")),
    ("a sparse file", "special_file", in_tar("s.json", b"0\n".ljust(512, b"\0"), pax_headers=SPARSE)),
    ("an absolute path in a tar", "absolute_path", in_tar("/etc/cron.d/x")),
    ("an absolute path in a zip", "absolute_path", in_zip("C:\\Windows\\x")),
    ("a path upwards in a tar", "path_escapes", in_tar("../../x.json")),
    ("a path upwards behind a folder", "path_escapes", in_tar("package/../../x.json")),
    ("a path upwards in a zip", "path_escapes", in_zip("../x.json")),
    ("a path upwards with backslashes", "path_escapes", in_zip("a\\..\\..\\x.json")),
    ("a folder beside the files", "nested_folder", in_tar("sub/x.json")),
    ("an empty folder beside the files", "nested_folder", in_tar("sub/", type=b"5")),
    ("folders in folders", "nested_folder", lambda bench: tar_of(bench.folder, top="a/b/")),
    ("a name twice in a tar", "duplicate_file", in_tar(WEIGHTS, b"other")),
    ("a name twice in a zip", "duplicate_file", in_zip(WEIGHTS)),
    ("names that differ by case", "case_conflict", in_tar(WEIGHTS.upper(), b"other")),
    ("a hidden file", "bad_file_name", in_tar(".bashrc", b"curl | sh")),
    ("a line break in a name", "bad_file_name", in_tar("x\n2026 INFO accepted.json")),
    ("a NUL in a name", "bad_file_name", zip_with_a_nul_in_a_name),
    (
        "too many files",
        "too_many_files",
        lambda bench: tar_with(lambda tar: [add(tar, f"{i}.json") for i in range(100)]),
    ),
    (
        "too many files in a zip",
        "too_many_files",
        lambda bench: zip_with(lambda z: [z.writestr(f"{i}.json", b"") for i in range(1000)]),
    ),
    ("a zip bomb", "compression_ratio", bomb("zip")),
    ("a gzip bomb", "compression_ratio", bomb("gz")),
    ("a pickle beside the weights", "pickle", spoilt(written("adapter_model.bin", b"\x80\x04K\x01."))),
    ("an optimiser's state", "pickle", spoilt(written("optimizer.PT", b"PK"))),
    (
        "a listed pickle",
        "pickle",
        spoilt(
            written("extra.pkl", b"\x80\x04K\x01."),
            lambda folder: manifest(
                lambda m: m["files"].extend(e.model_dump() for e in describe_files(folder, ["extra.pkl"]))
            )(folder),
        ),
    ),
    ("a script", "unexpected_file", spoilt(written("install.sh", "rm -rf /"))),
    ("an enormous card", "file_too_large", spoilt(written(CARD, b"x" * (MEGABYTES + 1)))),
]

LARGE: list[tuple[str, str, Callable[[Bench], bytes]]] = [
    ("a file that is too large", "file_too_large", bulky(2 * MEGABYTES + 1024)),
    ("too much together", "package_too_large", bulky(MEGABYTES * 3 // 2, MEGABYTES, MEGABYTES)),
    ("too much to send", "archive_too_large", lambda bench: os.urandom(3 * MEGABYTES + 1)),
]

FOLDERS: list[tuple[str, str, Callable[[Bench], Path]]] = [
    ("weights behind a link", "symlink", in_folder(linked_weights)),
    ("a pipe in the folder", "special_file", in_folder(lambda folder: os.mkfifo(folder / "x.json"))),
    ("a folder in the folder", "nested_folder", in_folder(lambda folder: (folder / "sub").mkdir())),
    ("a script in the folder", "unexpected_file", in_folder(written("install.sh", "rm -rf /"))),
    ("a pickle in the folder", "pickle", in_folder(written("adapter_model.bin", b"\x80\x04K\x01."))),
    ("a folder elsewhere", "outside_root", lambda bench: Path("/etc")),
    ("a folder by a way round", "outside_root", lambda bench: bench.folder / ".." / ".." / ".."),
    ("a folder behind a link", "outside_root", linked_from_outside),
    ("the root itself", "outside_root", lambda bench: bench.folder.parent),
    ("no folder", "not_a_folder", lambda bench: bench.folder / WEIGHTS),
    ("a folder that is not there", "not_a_folder", lambda bench: bench.folder.parent / "missing"),
]

MANIFESTS: list[tuple[str, str, Callable[[Path], object]]] = [
    ("no manifest", "manifest_missing", lambda folder: (folder / MANIFEST).unlink()),
    ("a manifest that is not YAML", "manifest_unreadable", written(MANIFEST, "[")),
    ("a manifest that is a list", "manifest_unreadable", written(MANIFEST, "[1]")),
    ("a manifest that is not UTF-8", "manifest_unreadable", written(MANIFEST, b"name: \xff\xfe")),
    ("a YAML bomb", "manifest_unreadable", written(MANIFEST, BOMB)),
    ("a manifest without a floor", "manifest_unreadable", written(MANIFEST, "a: " + "[" * 20000)),
    ("a Python object", "manifest_unreadable", written(MANIFEST, "!!python/object/apply:os.system [id]")),
    ("an impossible date", "manifest_unreadable", appended_to_manifest("x: 2026-99-99\n")),
    ("a number without end", "manifest_unreadable", appended_to_manifest(f"x: {'9' * 5000}\n")),
    ("a key twice", "manifest_unreadable", appended_to_manifest("name: another\n")),
    ("an enormous manifest", "manifest_too_large", written(MANIFEST, "#" * 70000)),
    ("an unknown key", "manifest_invalid", manifest(lambda m: m.update(pre_load_hook="os.system"))),
    ("another schema version", "manifest_invalid", manifest(lambda m: m.update(schema_version=2))),
    ("an unknown kind", "manifest_invalid", manifest(lambda m: m.update(kind="full_model"))),
    ("a name that is a path", "manifest_invalid", manifest(lambda m: m.update(name="../other"))),
    ("no culture", "manifest_invalid", manifest(lambda m: m.pop("culture"))),
    ("a terminal's commands", "manifest_invalid", manifest(lambda m: m.update(description="\x1b[2J"))),
    ("weights that are not listed", "manifest_invalid", manifest(lambda m: m["files"].pop())),
    (
        "a listed path upwards",
        "manifest_invalid",
        manifest(lambda m: m["files"].append({**m["files"][0], "path": "../x"})),
    ),
    ("another base model", "base_model_mismatch", manifest(lambda m: m.update(base_model="Llama-70B"))),
    ("no weights", "file_missing", lambda folder: (folder / WEIGHTS).unlink()),
    ("a size that is a lie", "size_mismatch", manifest(lambda m: m["files"][1].update(size_bytes=5))),
    (
        "a hash that is a lie",
        "sha256_mismatch",
        manifest(lambda m: m["files"][1].update(sha256="0" * 64)),
    ),
    (
        "a flipped bit",
        "sha256_mismatch",
        lambda folder: written(WEIGHTS, (c := (folder / WEIGHTS).read_bytes())[:-1] + bytes([c[-1] ^ 1]))(
            folder
        ),
    ),
]

VERTICES: list[dict[str, Any]] = [
    {"vector": {"helpful": 1}, "ranks": [0, 2]},
    {"vector": {"harmless": 1}, "ranks": [2, 4]},
]


def at(vector: dict[str, float]) -> dict[str, Any]:
    """A third anchor, whose ranks are not reached."""
    return {"vector": vector, "ranks": [4, 5]}


def experts(
    *anchors: dict[str, Any], axes: tuple[str, ...] = ("helpful", "harmless")
) -> Callable[[Path], None]:
    """The good package, which has four ranks, said to be a pareto-expert with these anchors."""

    def change(document: dict[str, Any]) -> None:
        del document["culture"]
        document.update(kind="pareto-expert", axes=[{"id": axis} for axis in axes], anchors=list(anchors))

    return manifest(change)


ANCHORS: list[tuple[str, str, Callable[[Path], object]]] = [
    ("a pareto-expert without anchors", "manifest_invalid", experts()),
    ("a lora with anchors", "manifest_invalid", manifest(lambda m: m.update(anchors=VERTICES))),
    (
        "an axis with a rank beside anchors",
        "manifest_invalid",
        lambda f: (experts(*VERTICES)(f), manifest(lambda m: m["axes"][0].update(rank_index=0))(f)),
    ),
    ("an anchor on no axis", "manifest_invalid", experts(*VERTICES, at({"bold": 1}))),
    (
        "an axis that no anchor weighs alone",
        "manifest_invalid",
        experts(VERTICES[0], at({"helpful": 0.5, "harmless": 0.5})),
    ),
    ("anchors of one axis", "manifest_invalid", experts(VERTICES[0], axes=("helpful",))),
    (
        "two anchors at one place",
        "manifest_invalid",
        experts(*VERTICES, at({"helpful": 0.999, "harmless": 0.001})),
    ),
    (
        "an anchor beyond the simplex",
        "manifest_invalid",
        experts(*VERTICES, at({"helpful": 1, "harmless": 1})),
    ),
    ("an anchor at no number", "manifest_invalid", experts(*VERTICES, at({"helpful": float("nan")}))),
    ("an anchor without a vector", "manifest_invalid", experts(*VERTICES, at({}))),
    (
        "an anchor without ranks",
        "manifest_invalid",
        experts(*VERTICES, {**at({"helpful": 0.5, "harmless": 0.5}), "ranks": [3, 3]}),
    ),
    ("two anchors in one rank", "manifest_invalid", experts(VERTICES[0], {**VERTICES[1], "ranks": [1, 4]})),
    (
        "an anchor of endless ranks",
        "manifest_invalid",
        experts(VERTICES[0], {**VERTICES[1], "ranks": [2, 10**9]}),
    ),
    ("a crowd of anchors", "manifest_invalid", experts(*(at({"helpful": 1}) for _ in range(40)))),
    (
        "an anchor beyond the rank",
        "anchor_out_of_range",
        experts(VERTICES[0], {**VERTICES[1], "ranks": [2, 5]}),
    ),
    ("a rank of no anchor", "rank_without_anchor", experts(VERTICES[0], {**VERTICES[1], "ranks": [3, 4]})),
    (
        "an anchor that does nothing",
        "anchor_no_effect",
        lambda f: (
            tensors(lambda t, a, b: [t[key][:, 2:].zero_() for key in t if ".lora_B." in key])(f),
            experts(*VERTICES)(f),
        ),
    ),
]

CONFIGS: list[tuple[str, str, Callable[[Path], object]]] = [
    ("a config that is not JSON", "peft_config_unreadable", file(PEFT_CONFIG, b"{")),
    ("a config that is not UTF-8", "peft_config_unreadable", file(PEFT_CONFIG, b'{"r": "\xff"}')),
    ("a config without a floor", "peft_config_unreadable", file(PEFT_CONFIG, b"[" * 100_000)),
    ("a config with two ranks", "peft_config_unreadable", replaced(PEFT_CONFIG, '"r":', '"r": 1, "r":')),
    ("an enormous config", "file_too_large", file(PEFT_CONFIG, b" " * 300_000)),
    ("another method", "not_a_lora", peft(peft_type="PREFIX_TUNING")),
    ("another model in the config", "peft_config_disagrees", peft(base_model_name_or_path="meta/Llama-70B")),
    (
        "a layer without tensors",
        "peft_config_disagrees",
        lambda f: peft(target_modules=_with(f, "lm_head"))(f),
    ),
    ("tensors of no target", "peft_config_disagrees", lambda f: peft(target_modules=_with(f)[:1])(f)),
    ("a pattern of layers", "unsupported_option", peft(target_modules="(a+)+$")),
    ("DoRA", "unsupported_option", peft(use_dora=True)),
    ("a bias", "unsupported_option", peft(bias="all")),
    ("whole modules", "unsupported_option", peft(modules_to_save=["lm_head"])),
    ("ranks by layer", "unsupported_option", peft(rank_pattern={"q_proj": 2})),
    ("layers repeated", "unsupported_option", peft(layer_replication=[[0, 2]])),
    ("weights of the base model changed", "unsupported_option", peft(init_lora_weights="pissa")),
    ("a rank of zero", "bad_rank", peft(r=0)),
    ("a rank above every bank's", "rank_too_large", peft(r=100_000)),
    ("an alpha of zero", "bad_alpha", peft(lora_alpha=0)),
    (
        "an alpha beyond floats",
        "bad_alpha",
        replaced(PEFT_CONFIG, '"lora_alpha": ', '"lora_alpha": 1' + "0" * 400),
    ),
]

WEIGHT_FILES: list[tuple[str, str, Callable[[Path], object]]] = [
    ("truncated weights", "weights_truncated", weights(lambda c: c[:-100])),
    ("empty weights", "weights_truncated", weights(lambda c: b"")),
    ("a header that is cut off", "weights_truncated", weights(lambda c: c[:60])),
    ("a pickle by another name", "pickle", weights(lambda c: b"\x80\x04\x95\x0b" + bytes(100))),
    ("a torch file by another name", "pickle", weights(lambda c: b"PK\x03\x04" + bytes(100))),
    ("a huge header", "header_too_large", weights(lambda c: (2**62).to_bytes(8, "little") + c[8:])),
    ("a header that is not JSON", "header_invalid", raw_header(b"{'a': 1}")),
    ("a header that is not UTF-8", "header_invalid", raw_header(b'{"\xff": 1}')),
    ("a header without a floor", "header_invalid", raw_header(b'{"a":' * 8000)),
    ("a header with a NaN", "header_invalid", raw_header(b'{"a": NaN}')),
    ("a tensor without a shape", "header_invalid", header(lambda h, names: h[names[0]].pop("shape"))),
    ("a negative dimension", "header_invalid", header(lambda h, names: h[names[0]].update(shape=[-4, -32]))),
    ("a tensor twice", "duplicate_tensor", twice_in_the_header),
    ("overlapping tensors", "bad_offsets", header(lambda h, names: moved(names, h, begin=-8, end=-8))),
    ("a gap between tensors", "bad_offsets", header(lambda h, names: moved(names, h, begin=8, end=8))),
    (
        "a tensor beyond the file",
        "bad_offsets",
        header(lambda h, names: h[names[-1]].update(data_offsets=[2**39, 2**39 + 8])),
    ),
    (
        "a tensor of another size",
        "bad_offsets",
        header(lambda h, names: h[names[0]].update(shape=[2**20, 2**10])),
    ),
    ("something behind the tensors", "bad_offsets", weights(lambda c: c + b"#!/bin/sh")),
    ("an unknown type", "wrong_dtype", header(lambda h, names: h[names[0]].update(dtype="OBJECT"))),
    ("whole numbers", "wrong_dtype", tensors(lambda t, a, b: t.update({a: t[a].to(torch.int8)}))),
    (
        "a tensor of the model itself",
        "foreign_tensor",
        tensors(lambda t, a, b: t.update({"lm_head.weight": t[a].clone()})),
    ),
    (
        "a layer that the model lacks",
        "foreign_tensor",
        tensors(lambda t, a, b: t.update({a.replace("layers.0", "layers.999"): t[a].clone()})),
    ),
    ("a smaller model's shapes", "wrong_shape", tensors(lambda t, a, b: t.update({a: t[a][:, :16].clone()}))),
    ("another rank than stated", "wrong_shape", peft(r=1)),
    ("half a pair", "half_a_pair", tensors(lambda t, a, b: t.pop(b))),
    ("no tensors", "no_tensors", tensors(lambda t, a, b: t.clear())),
    ("a NaN", "not_finite", tensors(lambda t, a, b: t[a][0].fill_(float("nan")))),
    ("an infinity", "not_finite", tensors(lambda t, a, b: t[b][0].fill_(float("inf")))),
    ("an enormous update", "norm_too_large", tensors(lambda t, a, b: t[b].fill_(5e4))),
    ("factors that overflow", "norm_too_large", tensors(small_weights_in_large_matrices)),
    ("zeros", "no_effect", tensors(lambda t, a, b: [tensor.zero_() for tensor in t.values()])),
]

SIGNATURES: list[tuple[str, str, Callable[[Bench], bytes]]] = [
    ("no signature", "unsigned", spoilt()),
    ("a stranger's signature", "signature_unknown_key", signed("stranger")),
    ("a signature that is rubbish", "signature_invalid", spoilt(written(SIGNATURE, "{}"))),
    ("a signature without a floor", "signature_invalid", spoilt(written(SIGNATURE, "[" * 100_000))),
    ("an enormous signature", "signature_invalid", spoilt(written(SIGNATURE, " " * 300_000))),
    ("a card changed after signing", "signature_invalid", signed("trusted", written(CARD, "Endorsed!"))),
    ("a card removed after signing", "signature_invalid", signed("trusted", lambda f: (f / CARD).unlink())),
    (
        "weights changed after signing",
        "signature_invalid",
        signed("trusted", tensors(lambda t, a, b: t[b].mul_(-1))),
    ),
    ("another package's signature", "signature_invalid", signature_of_another),
    ("a signature without the weights", "signature_invalid", signature_that_leaves_out_the_weights),
    ("a signature in another's name", "signature_invalid", signature_in_anothers_name),
]


def _with(folder: Path, *more: str) -> list[str]:
    return [*json.loads((folder / PEFT_CONFIG).read_text())["target_modules"], *more]


BAD_PACKAGES: tuple[BadPackage, ...] = (
    *(BadPackage(name, reason, make) for name, reason, make in ARCHIVES),
    *(BadPackage(name, reason, make, limits=SMALL) for name, reason, make in LARGE),
    *(BadPackage(name, reason, make) for name, reason, make in FOLDERS),
    *(
        BadPackage(name, reason, spoilt(spoil))
        for name, reason, spoil in (*MANIFESTS, *ANCHORS, *CONFIGS, *WEIGHT_FILES)
    ),
    *(BadPackage(name, reason, make, policy=SignaturePolicy.REQUIRE) for name, reason, make in SIGNATURES),
)

"""What a manifest may say of anchors, in the words of a refusal, and what anchors leave as it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from steer_server.catalogue.anchors import Anchor, check_blocks, check_vectors
from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.manifest import MANIFEST, read_manifest
from steer_server.catalogue.validation import validate_adapter
from steer_server.errors import CatalogueError
from steer_server.settings import Settings
from tests.support.adapters import TINY, random_adapter, tiny_base_model
from tests.support.experts import write_expert

AXES = ("a", "b", "c")
VERTICES: list[dict[str, float]] = [{"a": 1}, {"b": 1}, {"c": 1}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base_model(tmp_path_factory.mktemp("model") / TINY)


def test_vertices_and_vectors_between_them_are_good() -> None:
    check_vectors(AXES, VERTICES)
    check_vectors(
        AXES, [*VERTICES, {"a": 0.333, "b": 0.333, "c": 0.333}, {"a": 0.5, "b": 0.5}, {"a": 0.51, "b": 0.49}]
    )


BAD: dict[str, tuple[list[dict[str, float]], str]] = {
    "an unknown axis": ([*VERTICES, {"a": 0.5, "d": 0.5}], "anchor 4 weighs 'd', which is none of the axes"),
    "nothing weighed": ([{}, *VERTICES], "anchor 1 adds up to 0, not to 1"),
    "too little": ([*VERTICES, {"a": 0.5, "b": 0.49}], "anchor 4 adds up to 0.99, not to 1"),
    "too much": ([*VERTICES, {"a": 1, "b": 1}], "anchor 4 adds up to 2, not to 1"),
    "a vertex twice": ([*VERTICES, {"a": 1.0}], "anchors 1 and 4 lie at the same place"),
    "nearly the same": (
        [*VERTICES, {"a": 0.5, "b": 0.5}, {"a": 0.505, "b": 0.495}],
        "anchors 4 and 5 lie at the same place",
    ),
    "hardly weighed": (
        [*VERTICES, {"a": 0.995, "b": 0.005}],
        "anchor 4 weighs 'b' less than 0.01; leave it out",
    ),
    "a missing vertex": (
        [*VERTICES[:2], {"c": 0.98, "a": 0.02}],
        "no anchor for 'c' alone; every axis needs one, with the vector {c: 1}",
    ),
    "no anchors": ([], "no anchor for 'a' alone"),
}


@pytest.mark.parametrize(("vectors", "message"), BAD.values(), ids=BAD.keys())
def test_bad_vectors_are_refused_by_place(vectors: list[Mapping[str, float]], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_vectors(AXES, vectors)
    assert message in str(caught.value)


def test_every_anchor_has_ranks_of_its_own() -> None:
    def anchors(*ranks: tuple[int, int]) -> list[Anchor]:
        return [Anchor(vector={"a": 1}, ranks=block) for block in ranks]

    check_blocks(anchors((4, 8), (0, 4), (8, 9)))
    with pytest.raises(ValueError, match="anchor 2 has no ranks"):
        check_blocks(anchors((0, 4), (5, 5)))
    with pytest.raises(ValueError, match="rank 3 belongs to anchors 1 and 2"):
        check_blocks(anchors((0, 4), (3, 5)))


def test_a_bank_that_is_too_small_for_all_anchors_says_so(tmp_path: Path, base: BaseModel) -> None:
    for name in ("x", "y"):
        random_adapter(tmp_path, name, base, rank=4)
    folder = write_expert(
        tmp_path, tmp_path, "experts", Settings(model=base.path), {"x": {"a": 1}, "y": {"b": 1}}
    )
    assert validate_adapter(folder, base, max_rank=8).rank == 8
    with pytest.raises(CatalogueError, match=r"rank 8 \(2 anchors together\), this server's bank has rank 7"):
        validate_adapter(folder, base, max_rank=7)


def test_anchors_are_part_of_the_digest_and_other_kinds_keep_theirs(tmp_path: Path, base: BaseModel) -> None:
    for name in ("x", "y"):
        random_adapter(tmp_path, name, base)
    plain = read_manifest(tmp_path / "x")
    document = plain.model_dump(mode="json")
    assert document.pop("anchors") == [] and document.pop("prompter") is None
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    assert plain.digest == hashlib.sha256(canonical.encode()).hexdigest()

    folder = write_expert(
        tmp_path, tmp_path, "experts", Settings(model=base.path), {"x": {"a": 1}, "y": {"b": 1}}
    )
    before = read_manifest(folder)
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(
        text.replace("a: 1.0", "b: 1.0", 1).replace("b: 1.0\n  ranks:\n  - 4", "a: 1.0\n  ranks:\n  - 4")
    )
    swapped = read_manifest(folder)
    assert [dict(anchor.vector) for anchor in swapped.anchors] == [{"b": 1.0}, {"a": 1.0}]
    assert swapped.files == before.files and swapped.digest != before.digest

"""`adapter.yaml`: what an adapter says of itself, and the content digest that identifies it.

An adapter is a folder: `adapter.yaml` (this manifest), `adapter_config.json` and
`adapter_model.safetensors` as PEFT writes them, and a card `README.md`. A reward head has
`reward_head.json` and `reward_head.safetensors` in place of PEFT's files. The manifest lists every file that
the engine will read, with size and sha256.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from steer_server.catalogue.anchors import MAX_ANCHORS, Anchor, check_blocks, check_vectors
from steer_server.catalogue.reward_head import HEAD_CONFIG, HEAD_WEIGHTS
from steer_server.errors import CatalogueError, without_path

MANIFEST = "adapter.yaml"
WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
CARD = "README.md"
RECIPE = "recipe.json"
SIGNATURE = "model.sig"
UNLISTED_FILES = frozenset({MANIFEST, CARD, RECIPE, SIGNATURE})
"""What may lie beside the files that the manifest lists; the engine reads none of it."""
MAX_MANIFEST_BYTES = 64 * 1024
MAX_MANIFEST_DEPTH = 16

NAME_PATTERN = r"^[a-z0-9][a-z0-9_.-]{0,62}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
"""Names are lower case and never contain `@`, `:` or `/`, which separate names elsewhere."""

Version = Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,40}$")]

Text = Annotated[str, Field(max_length=4000, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$")]
"""For people. Without control characters, which a terminal would obey."""

Country = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
Kind = Literal["lora", "panacea", "pareto-expert", "prompter", "reward_head"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Strict):
    path: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
    """A plain file name: no folders, so nothing can point outside."""
    size_bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CultureInfo(_Strict):
    """The community whose values a `lora` adapter carries, or whose judgement a `reward_head` learnt."""

    id: Name
    countries: tuple[Country, ...] = ()
    """ISO 3166 alpha-3."""


class ValueAxis(_Strict):
    """One direction of a `panacea`, whose gate is its share of the preference vector, or one axis that the
    anchors of a `pareto-expert` lie on."""

    id: Name
    description: Text = ""
    rank_index: Annotated[int, Field(ge=0)] | None = None
    """The first rank (row of A, column of B) that carries this axis of a `panacea`; ranks that carry none are
    shared. None in a `pareto-expert`, whose anchors have the ranks."""
    num_ranks: Annotated[int, Field(ge=1)] = 1
    """How many ranks, one after the other, carry it. All have the axis' weight as their gate."""

    @property
    def ranks(self) -> range:
        """The ranks that carry it; none in a `pareto-expert`."""
        first = self.rank_index
        return range(0) if first is None else range(first, first + self.num_ranks)


class PrompterInfo(_Strict):
    """What a `prompter` rewrites prompts for."""

    id: Name
    """What requests call it; the adapter's own name may say more."""
    template_version: Annotated[int, Field(ge=1)]
    """Of `frozen/prompter_template.py`, as it was asked in training."""
    culture: Name | None = None
    """Whose values the answers are to show, where it is one community's. Keys that may not use this culture
    may not use the prompter either; no request can name it as a culture."""
    aim: Text = ""
    """What was rewarded in training."""


class DataSource(_Strict):
    source: Text
    licence: Text


class Manifest(_Strict):
    """The checked contents of `adapter.yaml`."""

    schema_version: Literal[1]
    name: Name
    version: Version
    kind: Kind
    description: Text = ""
    base_model: Text
    """Must equal the base model that is served."""
    licence: Text = ""
    culture: CultureInfo | None = None
    axes: tuple[ValueAxis, ...] = ()
    anchors: Annotated[tuple[Anchor, ...], Field(max_length=MAX_ANCHORS)] = ()
    head: Name | None = None
    """What requests call a `reward_head`; the adapter's own name says also from which split it is."""
    prompter: PrompterInfo | None = None
    files: tuple[FileEntry, ...]
    data: tuple[DataSource, ...] = ()

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Manifest:
        if (self.culture is not None) not in {"lora": (True,), "reward_head": (True, False)}.get(
            self.kind, (False,)
        ):
            raise ValueError("a lora has `culture`, a reward_head may have it; other kinds do not")
        if (self.kind == "reward_head") != (self.head is not None):
            raise ValueError("a reward_head has `head`; other kinds do not")
        if (self.kind == "prompter") != (self.prompter is not None):
            raise ValueError("a prompter has `prompter`; other kinds do not")
        if (self.kind in ("panacea", "pareto-expert")) != bool(self.axes):
            raise ValueError("a panacea or a pareto-expert has `axes`; other kinds do not")
        if (self.kind == "pareto-expert") != bool(self.anchors):
            raise ValueError("a pareto-expert has `anchors`; other kinds do not")
        with_ranks = sum(axis.rank_index is not None for axis in self.axes)
        if with_ranks != (len(self.axes) if self.kind == "panacea" else 0):
            raise ValueError("the axes of a panacea have a `rank_index`; those of other kinds do not")
        ids = [axis.id for axis in self.axes]
        ranks = [rank for axis in self.axes for rank in axis.ranks]
        if len(set(ranks)) != len(ranks) or len(set(ids)) != len(ids):
            raise ValueError("two axes share an id or a rank")
        if self.anchors:
            check_vectors(ids, [anchor.vector for anchor in self.anchors])
            check_blocks(self.anchors)
        paths = [entry.path for entry in self.files]
        if len(set(paths)) != len(paths):
            raise ValueError("a file is listed twice")
        needed = {HEAD_WEIGHTS, HEAD_CONFIG} if self.kind == "reward_head" else {WEIGHTS, PEFT_CONFIG}
        if missing := needed - set(paths):
            raise ValueError(f"`files` does not list {sorted(missing)}")
        return self

    @property
    def own_ranks(self) -> dict[str, range]:
        """The ranks that have gates of their own, by what they carry."""
        return {
            **{f"axis {axis.id}": axis.ranks for axis in self.axes if axis.ranks},
            **{f"anchor {i} ({a.title})": range(*a.ranks) for i, a in enumerate(self.anchors, 1)},
        }

    @property
    def digest(self) -> str:
        """Content digest: sha256 over the canonical manifest, which holds the files' own hashes. Hex."""
        document = self.model_dump(mode="json")
        # Stores and signatures hold digests from before there were anchors, axes of several ranks, prompters.
        if not self.anchors:
            del document["anchors"]
        if self.prompter is None:
            del document["prompter"]
        for axis in document["axes"]:
            if axis["num_ranks"] == 1:
                del axis["num_ranks"]
        canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


class _PlainLoader(yaml.SafeLoader):
    """YAML without what can make a small file large (aliases), deep, or mean two things (keys twice)."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if event.anchor is not None:
            raise yaml.YAMLError("anchors and aliases are not allowed")
        if self.depth >= MAX_MANIFEST_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {MAX_MANIFEST_DEPTH}")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.YAMLError(f"key {key.value[:60]!a} is given twice")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an adapter folder.

    Raises: CatalogueError when it is missing, too large, not YAML, or breaks the schema above.
    """
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise CatalogueError(folder.name, "manifest_missing", f"no regular file {MANIFEST}")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise CatalogueError(folder.name, "manifest_too_large", f"over {MAX_MANIFEST_BYTES} bytes")
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)
    # ValueError: not UTF-8, impossible dates, numbers with thousands of digits.
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        detail = " ".join(f"{MANIFEST}: {without_path(error)}".split())[:400]
        raise CatalogueError(folder.name, "manifest_unreadable", detail) from error
    if not isinstance(document, dict):
        raise CatalogueError(folder.name, "manifest_unreadable", "not a mapping")
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        raise CatalogueError(folder.name, "manifest_invalid", described(error)) from error


def described(error: ValidationError) -> str:
    """The first problems, each with the place where it is. Keys are somebody's text: shown escaped."""
    places = [("".join(f".{part}" for part in e["loc"])[1:121], e["msg"]) for e in error.errors()[:5]]
    return "; ".join(f"{place.encode('unicode_escape').decode() or MANIFEST}: {msg}" for place, msg in places)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

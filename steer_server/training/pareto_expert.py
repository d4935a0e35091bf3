"""`train pareto-expert`: trained LoRAs and the preference vector of each in, one adapter folder out.

Nothing is trained here. The anchors are `lora` adapters, such as `train panacea --as-lora` writes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from steer_server.catalogue.anchors import MAX_ANCHORS, Anchor, check_vectors, vector_title
from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.folders import write_adapter_folder
from steer_server.catalogue.manifest import MANIFEST, RECIPE, Name, Text, ValueAxis, Version
from steer_server.catalogue.snapshot import LoadedAdapter
from steer_server.catalogue.validation import validate_adapter
from steer_server.errors import TrainingError
from steer_server.evaluation.report import provenance
from steer_server.settings import MAX_RANK, Settings
from steer_server.training.concat_loras import concat_loras
from steer_server.training.strict_file import Strict, StrictFile
from steer_server.training.trained_on import TRAINED_ON, read_trained_on, trained_on_lines

Weight = Annotated[float, Field(ge=0, le=1)]


class ExpertAxis(Strict):
    axis: Name
    description: Text = ""


class AnchorRecipe(Strict):
    folder: str
    """Of a `lora`, below the directory of anchors."""
    vector: dict[str, Weight]
    """Weight by axis; axes that it does not name have weight 0."""


class ParetoExpertRecipe(StrictFile):
    """The whole file."""

    name: Name
    version: Version = "1.0.0"
    description: Text = ""
    licence: Text = ""
    axes: tuple[ExpertAxis, ...]
    anchors: Annotated[tuple[AnchorRecipe, ...], Field(max_length=MAX_ANCHORS)]

    @model_validator(mode="after")
    def _spans_the_simplex(self) -> ParetoExpertRecipe:
        names = [axis.axis for axis in self.axes]
        if len(set(names)) != len(names):
            raise ValueError("two axes share a name")
        check_vectors(names, [anchor.vector for anchor in self.anchors])
        return self


def make_pareto_expert(recipe_file: Path, anchors: Path, out: Path, settings: Settings) -> None:
    """Writes the recipe's adapter into `out/<name>` unless it is there; prints a line of JSON about it.

    Args:
        anchors: directory of the anchors' folders.

    Raises: TrainingError for a bad recipe or more ranks than a bank can have; CatalogueError for an anchor
        that a server would refuse.
    """
    recipe = ParetoExpertRecipe.read(recipe_file)
    folder = out / recipe.name
    if (folder / MANIFEST).exists():
        print(f"{recipe.name}: already in {out}, skipped", file=sys.stderr)
        return
    base = BaseModel.fetched(settings)
    adapters = [_read_anchor(anchors / anchor.folder, base) for anchor in recipe.anchors]
    if (rank := sum(adapter.rank for adapter in adapters)) > MAX_RANK:
        raise TrainingError(f"the anchors have {rank} ranks together; a bank has {MAX_RANK} at most")
    whole = concat_loras(adapters)
    write_adapter_folder(
        folder,
        name=recipe.name,
        version=recipe.version,
        kind="pareto-expert",
        description=recipe.description,
        base_model=min(base.names, key=len),
        rank=whole.rank,
        alpha=whole.rank,
        target_modules=whole.target_modules,
        tensors=whole.tensors,
        axes=[ValueAxis(id=axis.axis, description=axis.description) for axis in recipe.axes],
        anchors=[
            Anchor(vector=anchor.vector, ranks=block)
            for anchor, block in zip(recipe.anchors, whole.blocks, strict=True)
        ],
        licence=recipe.licence,
        data=list(dict.fromkeys(source for adapter in adapters for source in adapter.manifest.data)),
        card=_card(recipe, adapters),
        listed=_trained_on(adapters),
        extra={RECIPE: json.dumps(_made_from(recipe, adapters), indent=2) + "\n"},
    )
    print(json.dumps({"adapter": recipe.name, "rank": rank, "anchors": len(adapters)}), flush=True)


def _read_anchor(folder: Path, base: BaseModel) -> LoadedAdapter:
    if not folder.is_dir():
        raise TrainingError(f"no folder {folder.name!r} in {folder.parent}")
    adapter = validate_adapter(folder, base, MAX_RANK)
    if adapter.manifest.kind != "lora":
        raise TrainingError(
            f"{adapter.title} is a {adapter.manifest.kind}; an anchor is a lora, one update without axes"
        )
    return adapter


def _made_from(recipe: ParetoExpertRecipe, adapters: Sequence[LoadedAdapter]) -> dict[str, object]:
    """What is stacked, and what each anchor was trained with, where it says so."""
    anchors = [
        {"adapter": adapter.title, "digest": adapter.digest, "recipe": _trained_with(adapter.folder)}
        for adapter in adapters
    ]
    return {"stacked": recipe.model_dump(mode="json"), "anchors": anchors}


def _trained_on(adapters: Sequence[LoadedAdapter]) -> dict[str, str]:
    """The anchors' prompts together; no file where one of them does not say its own."""
    known = [hashes for adapter in adapters if (hashes := read_trained_on(adapter.folder)) is not None]
    return {TRAINED_ON: trained_on_lines(set().union(*known))} if len(known) == len(adapters) else {}


def _trained_with(folder: Path) -> object:
    try:
        return json.loads((folder / RECIPE).read_text(encoding="utf-8")).get("recipe")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise TrainingError(f"cannot read {folder.name}/{RECIPE}: {error}") from error


def _card(recipe: ParetoExpertRecipe, adapters: Sequence[LoadedAdapter]) -> str:
    made = provenance()
    rows = "\n".join(
        f"| {vector_title(anchor.vector)} | {adapter.title} | {adapter.rank} |"
        for anchor, adapter in zip(recipe.anchors, adapters, strict=True)
    )
    axes = "\n".join(f"- **{axis.axis}**: {axis.description}" for axis in recipe.axes)
    sources = list(dict.fromkeys(s for adapter in adapters for s in adapter.manifest.data))
    data = "\n".join(f"- {source.source} ({source.licence})" for source in sources) or "- not stated"
    return f"""# {recipe.name}

{recipe.description}

{len(adapters)} adapters, each made for one preference vector over these value axes:

{axes}

| preference vector | adapter | ranks |
|---|---|--:|
{rows}

At one of these vectors that adapter alone is applied. Between them the updates of the nearest are summed,
with weights that add up to 1. Nothing was trained for the vectors between, and nothing here says how well
they do: `steer-server eval pareto` measures it. `{RECIPE}` names the adapters by digest. Made by
`{made["command"]}`
at commit {made["commit"]}.

Data of the adapters:

{data}

Licence: {recipe.licence or "not stated"}.

## Known failures

- A loader that does not know gates opens the folder with every adapter at full strength at once, which no
  preference vector asks for.
"""

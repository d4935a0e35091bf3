"""`train panacea`: a recipe and preference pairs in, one adapter folder with value axes out."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.folders import write_adapter_folder
from steer_server.catalogue.manifest import MANIFEST, RECIPE, CultureInfo, ValueAxis
from steer_server.errors import TrainingError
from steer_server.evaluation.report import commit
from steer_server.settings import Settings
from steer_server.training.panacea_card import panacea_card
from steer_server.training.panacea_recipe import Aggregation, PanaceaRecipe
from steer_server.training.panacea_trainer import PanaceaTrainer
from steer_server.training.trained_on import TRAINED_ON, trained_on_text


def train_panacea(
    recipe_file: Path,
    data: Path,
    out: Path,
    settings: Settings,
    axes: Sequence[str] = (),
    aggregation: Aggregation | None = None,
    as_lora: bool = False,
) -> None:
    """Trains the recipe's adapter into `out/<name>` unless it is there; prints its scores as a line of JSON.

    Args:
        axes: only these; fewer than the recipe's make another adapter with its own name.
        as_lora: write an adapter of one axis as kind `lora`, which requests blend under `cultures`; only
            such adapters can be combined, as Rewarded Soups are (the sum of weighted updates).

    Raises: TrainingError for a bad recipe, bad data, or `as_lora` with several axes.
    """
    commit()
    recipe = PanaceaRecipe.read(recipe_file).narrowed(axes, aggregation)
    if as_lora and len(recipe.axes) != 1:
        raise TrainingError(f"as a lora, one axis is trained, not {[axis.axis for axis in recipe.axes]}")
    folder = out / recipe.name
    if (folder / MANIFEST).exists():
        print(f"{recipe.name}: already in {out}, skipped", file=sys.stderr)
        return
    base = BaseModel.fetched(settings)
    work = settings.cache / "training" / "panacea" / recipe.name
    trainer = PanaceaTrainer(Path(base.path), recipe, data, work)
    scores = trainer.train()
    rank = recipe.rank
    written = {"recipe": recipe.model_dump(mode="json"), "scores": scores}
    write_adapter_folder(
        folder,
        name=recipe.name,
        version="1.0.0",
        kind="lora" if as_lora else "panacea",
        description=recipe.description,
        base_model=min(base.names, key=len),
        rank=rank,
        alpha=rank,
        target_modules=trainer.lora.target_modules,
        tensors=trainer.lora.exported(),
        culture=CultureInfo(id=recipe.name) if as_lora else None,
        axes=()
        if as_lora
        else [
            ValueAxis(
                id=axis.axis,
                description=axis.description,
                rank_index=recipe.axis_ranks(i).start,
                num_ranks=len(recipe.axis_ranks(i)),
            )
            for i, axis in enumerate(recipe.axes)
        ],
        licence=recipe.licence,
        data=recipe.data_sources,
        card=panacea_card(recipe, scores),
        listed={TRAINED_ON: trained_on_text(trainer.trained_units)},
        extra={RECIPE: json.dumps(written, indent=2) + "\n"},
    )
    trainer.checkpoint.unlink(missing_ok=True)
    trainer.reference_file.unlink(missing_ok=True)
    print(json.dumps({"adapter": recipe.name, **scores}), flush=True)

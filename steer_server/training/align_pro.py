"""`train align-pro`: a recipe, rewrites, prompts and a running server in, one prompter's folder out."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.folders import write_adapter_folder
from steer_server.catalogue.manifest import MANIFEST, RECIPE, PrompterInfo
from steer_server.evaluation.report import commit
from steer_server.frozen.prompter_template import TEMPLATE_VERSION
from steer_server.settings import Settings
from steer_server.training.align_pro_answers import FrozenModel
from steer_server.training.align_pro_card import align_pro_card
from steer_server.training.align_pro_recipe import AlignProRecipe
from steer_server.training.align_pro_scores import held_out_scores
from steer_server.training.align_pro_trainer import AlignProTrainer
from steer_server.training.culture import TARGET_MODULES
from steer_server.training.trained_on import TRAINED_ON, trained_on_text


def train_align_pro(
    recipe_file: Path,
    data: Path,
    out: Path,
    settings: Settings,
    url: str,
    api_key: str,
    concurrency: int = 16,
) -> None:
    """Trains the recipe's prompter into `out/<name>` unless it is there; prints its scores as a line of JSON.
    A run that was stopped goes on where it was.

    Args:
        data: directory of the recipe's files.
        url: of a running server, whose base model answers and whose reward heads score.

    Raises: TrainingError for a bad recipe, bad data, or a server that fails.
    """
    commit()
    recipe = AlignProRecipe.read(recipe_file)
    folder = out / recipe.name
    if (folder / MANIFEST).exists():
        print(f"{recipe.name}: already in {out}, skipped", file=sys.stderr)
        return
    base = BaseModel.fetched(settings)
    frozen = FrozenModel(url, api_key, tuple(recipe.heads), recipe.answering, concurrency)
    work = settings.cache / "training" / "align-pro" / recipe.name
    trainer = AlignProTrainer(Path(base.path), recipe, data, work, frozen)
    started = time.monotonic()
    scores = trainer.train()
    scores |= {
        "training_seconds": round(time.monotonic() - started),
        "served": trainer.served,
        "held_out": held_out_scores(trainer),
    }
    written = {"recipe": recipe.model_dump(mode="json"), "scores": scores}
    write_adapter_folder(
        folder,
        name=recipe.name,
        version="1.0.0",
        kind="prompter",
        description=recipe.description,
        base_model=min(base.names, key=len),
        rank=recipe.rank,
        alpha=recipe.alpha,
        target_modules=TARGET_MODULES,
        tensors={name: tensor.to(torch.bfloat16) for name, tensor in trainer.prompter.state().items()},
        prompter=PrompterInfo(
            id=recipe.prompter,
            template_version=TEMPLATE_VERSION,
            culture=recipe.culture,
            aim=recipe.aim,
        ),
        licence=recipe.licence,
        data=recipe.data_sources,
        card=align_pro_card(recipe, scores),
        listed={TRAINED_ON: trained_on_text(trainer.trained_units)},
        extra={RECIPE: json.dumps(written, indent=2) + "\n"},
    )
    trainer.forget()
    print(json.dumps({"adapter": recipe.name, **scores}), flush=True)

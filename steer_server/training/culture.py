"""Trains culture LoRAs with plain PEFT and writes them as adapter folders.

By `mode`, a culture learns people's answer shares (`survey`), or what the model itself answers when it is
told the culture (`self`, as in CultureSPA, arXiv 2410.12971). Both are scored against people.

All cultures of a recipe may start from one LoRA that was trained on all countries together (`start`): it
learns how people answer surveys at all, and each culture learns from there in what its people differ.
`answers.py` has the loss, `survey_data.py` the chats.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.folders import write_adapter_folder
from steer_server.catalogue.manifest import MANIFEST, RECIPE, CultureInfo
from steer_server.errors import TrainingError
from steer_server.evaluation.distributions import jensen_shannon_bits, uniform_bits
from steer_server.evaluation.report import commit
from steer_server.settings import Settings
from steer_server.training.answers import (
    AnswerEncoder,
    answer_log_probs,
    kl_to_base,
    position_logits,
    survey_loss,
)
from steer_server.training.base_weights import load_base
from steer_server.training.culture_card import culture_card
from steer_server.training.culture_recipe import ALL, SELF, START, CultureRecipe, RecipeFile
from steer_server.training.example import Example
from steer_server.training.loop import LoopConfig, fingerprint, train
from steer_server.training.self_pluralising import fill_in, read_questions
from steer_server.training.survey_data import (
    SurveyBatches,
    SurveyQuestion,
    letter_example,
    pool_countries,
    read_prompts,
    read_survey,
    shortened,
    split_questions,
    words_example,
)
from steer_server.training.trained_on import TRAINED_ON, trained_on_text

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class CultureTrainer:
    """The base model with one LoRA, trained recipe by recipe.

    Args:
        questions: questions without answers, for mode `self`.
        work: directory for checkpoints and the common start.
    """

    def __init__(
        self, model_path: Path, survey: Path, prompts: Path | None, questions: Path | None, work: Path
    ) -> None:
        from transformers import AutoTokenizer

        self.encoder = AnswerEncoder(AutoTokenizer.from_pretrained(model_path))
        self.base = load_base(model_path)
        self.device = self.base.device
        self.survey = read_survey(survey)
        self.ordinary = read_prompts(prompts)
        self.questions = questions
        self.work = work

    def rows(self, recipe: CultureRecipe) -> tuple[list[SurveyQuestion], list[SurveyQuestion]]:
        """(training, held out) questions. Held out are always people's answers in the recipe's countries.

        Raises: TrainingError when one of the two is empty.
        """
        countries = sorted(self.survey) if recipe.countries == (ALL,) else recipe.countries
        rows = pool_countries(self.survey, countries)
        training, held_out = split_questions(rows, recipe.held_out_share, recipe.seed)
        if recipe.mode == SELF:
            if self.questions is None:
                raise TrainingError(f"{recipe.culture}: mode {SELF} needs --questions")
            asked = read_questions(self.questions, recipe.num_questions, recipe.seed)
            training = fill_in(self.base, self.encoder, asked, recipe.place).changed
        if not training or not held_out:
            raise TrainingError(
                f"{recipe.culture}: {len(training)} questions to train on, {len(held_out)} held out"
            )
        return training, held_out

    def train(
        self, recipe: CultureRecipe, start: dict[str, torch.Tensor] | None, run: str
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The LoRA's tensors by PEFT's names in bf16, and the scores for the card (bits; lower is better)."""
        from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

        from steer_server.training.low_rank import lora_config

        torch.manual_seed(recipe.seed)
        training, held_out = self.rows(recipe)
        config = lora_config(recipe.rank, recipe.alpha, TARGET_MODULES)
        model = get_peft_model(self.base, config, autocast_adapter_dtype=True)
        try:
            if start is not None:
                set_peft_model_state_dict(model, start)
            batches = SurveyBatches(
                training, recipe.batch_size, recipe.letters_share, recipe.seed, self.encoder.num_tokens
            )
            started = time.monotonic()
            train(
                {name: p for name, p in model.named_parameters() if p.requires_grad},
                lambda step: self._loss(model, batches[step], recipe, step),
                LoopConfig(recipe.culture, recipe.num_steps, recipe.learning_rate),
                self.work / f"{recipe.culture}.checkpoint",
                run,
            )
            scores: dict[str, Any] = {
                "questions_trained": len(training),
                "questions_held_out": len(held_out),
                "training_seconds": round(time.monotonic() - started),
                "uniform": uniform_bits([row.distribution for row in held_out]),
                **{f"adapter_{k}": v for k, v in self.divergence(model, held_out, recipe.seed).items()},
            }
            with model.disable_adapter():
                base = self.divergence(model, held_out, recipe.seed)
            scores.update({f"base_{k}": v for k, v in base.items()})
            tensors = {
                k: v.detach().to("cpu", torch.bfloat16) for k, v in get_peft_model_state_dict(model).items()
            }
        finally:
            # The next culture wraps the same base anew.
            model.unload()
        return tensors, scores

    def _loss(
        self, model: Any, examples: Sequence[Example], recipe: CultureRecipe, step: int
    ) -> torch.Tensor:
        batch = self.encoder.batch(examples).to(self.device)
        loss = survey_loss(answer_log_probs(position_logits(model, batch), batch), batch.shares)
        if prompts := self._ordinary_prompts(recipe, step):
            ordinary = self.encoder.batch(list(map(shortened, prompts))).to(self.device)
            with torch.no_grad(), model.disable_adapter():
                reference = position_logits(model, ordinary)
            weight = recipe.closeness_weight * recipe.closeness_every
            loss = loss + weight * kl_to_base(position_logits(model, ordinary), reference)
        return loss

    def _ordinary_prompts(self, recipe: CultureRecipe, step: int) -> list[Example]:
        """On which the adapter is kept close to the base model in this step; none in most."""
        if recipe.closeness_weight <= 0 or step % recipe.closeness_every:
            return []
        rng = random.Random(f"{recipe.seed}:{step}")
        return rng.sample(self.ordinary, min(recipe.closeness_batch, len(self.ordinary)))

    def trained_units(self, recipe: CultureRecipe) -> set[str]:
        """The questions and the ordinary prompts that a recipe's training asks."""
        training, _ = self.rows(recipe)
        steps = range(recipe.num_steps)
        ordinary = {one.prompt for step in steps for one in self._ordinary_prompts(recipe, step)}
        return {row.question for row in training} | ordinary

    @torch.no_grad()
    def divergence(self, model: Any, rows: Sequence[SurveyQuestion], seed: int) -> dict[str, float]:
        """Mean Jensen-Shannon divergence in bits from people's answers, by `letters` (the natural order and
        a random one) and in `words` (options not listed). Lower is better."""
        rng = random.Random(seed)
        asked: list[tuple[str, Example]] = []
        for row in rows:
            order = list(range(len(row.options)))
            asked.append(("letters", letter_example(row, order)))
            asked.append(("letters", letter_example(row, rng.sample(order, len(order)))))
            asked.append(("words", words_example(row)))
        asked.sort(key=lambda pair: self.encoder.num_tokens(pair[1]))
        found: dict[str, list[float]] = {"letters": [], "words": []}
        for start in range(0, len(asked), 16):
            chunk = asked[start : start + 16]
            batch = self.encoder.batch([example for _, example in chunk]).to(self.device)
            answers = answer_log_probs(position_logits(model, batch), batch)
            for (form, example), log_probs in zip(chunk, answers, strict=True):
                shares = log_probs.softmax(-1).cpu().numpy()
                found[form].append(float(jensen_shannon_bits(shares, np.array(example.shares))))
        return {form: sum(values) / len(values) for form, values in found.items()}


def train_cultures(
    recipe_file: Path | None,
    survey: Path,
    prompts: Path | None,
    out: Path,
    settings: Settings,
    only: Sequence[str] = (),
    questions: Path | None = None,
) -> None:
    """Trains every culture of a recipe file that is not in `out` yet, one line of JSON scores each. A run
    that was stopped goes on where it was. Without a file, every community of the survey is a culture.

    Raises: TrainingError for a culture in `only` that the recipe does not have, and for bad data.
    """
    commit()
    if recipe_file:
        file = RecipeFile.read(recipe_file)
    else:
        file = RecipeFile.of_survey(read_survey(survey), survey.name)
    recipes = {recipe.culture: recipe for recipe in file.cultures}
    if unknown := sorted(set(only) - set(recipes)):
        raise TrainingError(
            f"{(recipe_file or survey).name} has no culture {', '.join(unknown)}; it has {sorted(recipes)}"
        )
    todo = [recipe for name, recipe in recipes.items() if not only or name in only]
    for recipe in [recipe for recipe in todo if (out / recipe.culture / MANIFEST).exists()]:
        print(f"{recipe.culture}: already in {out}, skipped", file=sys.stderr)
        todo.remove(recipe)
    if not todo:
        return
    base = BaseModel.fetched(settings)
    work = settings.cache / "training" / (recipe_file or survey).stem
    trainer = CultureTrainer(Path(base.path), survey, prompts, questions, work)
    start, run = None, data_fingerprint(base.path, survey, prompts, questions)
    if file.start:
        run = fingerprint({"run": run, **asdict(file.start)})
        start = _common_start(trainer, file.start, run)
    for recipe in todo:
        tensors, scores = trainer.train(recipe, start, fingerprint({"run": run, **asdict(recipe)}))
        units = [trainer.trained_units(one) for one in (recipe, file.start) if one]
        countries = tuple(c for c in recipe.countries if len(c) == 3 and c.isupper())
        write_adapter_folder(
            out / recipe.culture,
            name=recipe.culture,
            version="1.0.0",
            kind="lora",
            description=recipe.description,
            base_model=min(base.names, key=len),
            rank=recipe.rank,
            alpha=recipe.alpha,
            target_modules=TARGET_MODULES,
            tensors=tensors,
            culture=CultureInfo(id=recipe.culture, countries=countries),
            licence=file.licence,
            data=file.sources,
            card=culture_card(recipe, file, scores),
            listed={TRAINED_ON: trained_on_text(set().union(*units))},
            extra={
                RECIPE: json.dumps(
                    {"start": file.start and asdict(file.start), **asdict(recipe), "scores": scores}, indent=2
                )
                + "\n"
            },
        )
        (work / f"{recipe.culture}.checkpoint").unlink(missing_ok=True)
        print(json.dumps({"culture": recipe.culture, **scores}), flush=True)


def data_fingerprint(model: str, survey: Path, prompts: Path | None, questions: Path | None) -> str:
    """Identifies what is trained and on which data: by the files' bytes, whatever they are called. Hex."""
    data = {"model": model, "survey": survey.read_bytes(), "prompts": prompts and prompts.read_bytes()}
    # Not as None: starts that were kept by earlier versions stay.
    return fingerprint({**data, "questions": questions.read_bytes()} if questions else data)


def _common_start(trainer: CultureTrainer, recipe: CultureRecipe, run: str) -> dict[str, torch.Tensor]:
    """The LoRA that all cultures start from; kept in the work directory, which a later run finds it in."""
    from safetensors.torch import load_file, save_file

    path = trainer.work / f"{START}-{run[:16]}.safetensors"
    if not path.exists():
        tensors, scores = trainer.train(replace(recipe, culture=START), None, run)
        trainer.work.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)
        (trainer.work / f"{START}.checkpoint").unlink(missing_ok=True)
        print(json.dumps({"start": list(recipe.countries), **scores}), flush=True)
    return dict(load_file(path))

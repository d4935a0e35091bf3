"""Trains one culture LoRA on a survey with plain PEFT and writes it as an adapter folder.

Source: survey mode of CultureSPA (arXiv 2410.12971), with the human distribution as the target in place of
the model's own answers. `chat_loss.py` has the loss, `survey_data.py` the chats.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from steer_server.builtin_model import ensure_builtin
from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.manifest import MANIFEST, CultureInfo, DataSource, write_adapter_folder
from steer_server.errors import TrainingError
from steer_server.settings import Settings
from steer_server.training.chat_loss import ChatEncoder, answer_logits, batch_loss, kl_to_base
from steer_server.training.survey_data import (
    Example,
    SurveyQuestion,
    examples_for_epoch,
    letter_example,
    pool_countries,
    read_prompts,
    read_survey,
)

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SOURCES = (
    DataSource(
        source="World Values Survey wave 7 aggregates as published with CultureSPA (arXiv 2410.12971)",
        licence="WVS terms: cite, non-commercial, do not redistribute",
    ),
    DataSource(source="AlpacaEval prompts (closeness to the base model only)", licence="CC BY-NC 4.0"),
)
"""Where the shipped recipes' data comes from."""


@dataclass(frozen=True)
class CultureRecipe:
    """Everything that decides the result, besides the data."""

    culture: str
    countries: tuple[str, ...]
    description: str = ""
    rank: int = 4
    alpha: int = 8
    learning_rate: float = 1e-3
    epochs: int = 5
    batch_size: int = 16
    closeness_weight: float = 1.0
    closeness_batch: int = 2
    held_out_share: float = 0.2
    seed: int = 20261121

    @classmethod
    def read_all(cls, path: Path) -> list[CultureRecipe]:
        """All cultures of a recipe file: `defaults` and a list `cultures`.

        Raises: TrainingError for an unknown key.
        """
        document = yaml.safe_load(path.read_text())
        recipes = []
        for entry in document["cultures"]:
            values = {**document.get("defaults", {}), **entry}
            unknown = set(values) - set(cls.__dataclass_fields__)
            if unknown:
                raise TrainingError(f"{path.name}: unknown keys {sorted(unknown)}")
            recipes.append(cls(**{**values, "countries": tuple(values["countries"])}))
        return recipes


def jensen_shannon_bits(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """0.5 KL(p‖m) + 0.5 KL(q‖m) with m = (p+q)/2, in bits (0..1)."""
    m = (p + q) / 2

    def kl(a: torch.Tensor) -> torch.Tensor:
        return torch.where(a > 0, a * (a / m).log2(), torch.zeros_like(a)).sum(-1)

    return 0.5 * kl(p) + 0.5 * kl(q)


@torch.no_grad()
def survey_divergence(
    model: Any, encoder: ChatEncoder, rows: Sequence[SurveyQuestion], seed: int, orders: int = 3
) -> float:
    """Mean Jensen-Shannon divergence in bits between the model's option letters and people's answers,
    averaged over `orders` random option orders. Lower is better."""
    rng = random.Random(seed)
    examples = [letter_example(row, rng) for row in rows for _ in range(orders)]
    letter_ids = torch.tensor(encoder.letter_ids)
    total = 0.0
    for start in range(0, len(examples), 16):
        chunk = examples[start : start + 16]
        batch = encoder.batch(chunk)
        at = answer_logits(model, batch)[:, letter_ids]
        for row_logits, example in zip(at, chunk, strict=True):
            assert example.letters is not None
            human = torch.tensor(example.letters)
            total += jensen_shannon_bits(row_logits[: len(human)].softmax(-1), human).item()
    return total / len(examples)


def uniform_divergence(rows: Sequence[SurveyQuestion]) -> float:
    """What answering every option equally often scores."""
    scores = []
    for row in rows:
        human = torch.tensor(row.distribution)
        scores.append(jensen_shannon_bits(torch.full_like(human, 1 / len(human)), human).item())
    return sum(scores) / len(scores)


def split_questions(
    rows: Sequence[SurveyQuestion], held_out_share: float, seed: int
) -> tuple[list[SurveyQuestion], list[SurveyQuestion]]:
    """(training, held out) by question, the same questions held out for every culture with that seed."""

    def is_held_out(row: SurveyQuestion) -> bool:
        return random.Random(f"{seed}:{row.question_id}").random() < held_out_share

    return [r for r in rows if not is_held_out(r)], [r for r in rows if is_held_out(r)]


def _batches(examples: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
    """Batches of similar length, in the given order otherwise, so that little is padding."""
    ordered = sorted(examples, key=lambda e: len(e.prompt))
    chunks = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    random.Random(examples[0].prompt).shuffle(chunks)
    yield from chunks


def train_culture(
    recipe: CultureRecipe,
    model_path: Path,
    base_model: str,
    survey: Path,
    prompts: Path,
    out: Path,
    sources: Sequence[DataSource],
) -> dict[str, Any]:
    """Trains one culture and writes `out/<culture>/`: manifest, card, PEFT config and safetensors.

    Returns: the scores that are also in the card (bits; lower is better).
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(recipe.seed)
    rng = random.Random(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    encoder = ChatEncoder(tokenizer)
    dtype = torch.bfloat16
    base = AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype)
    config = LoraConfig(
        r=recipe.rank, lora_alpha=recipe.alpha, target_modules=list(TARGET_MODULES), task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, config, autocast_adapter_dtype=True)
    rows = pool_countries(read_survey(survey), recipe.countries)
    training, held_out = split_questions(rows, recipe.held_out_share, recipe.seed)
    general = [Example(prompt=p[:400], answer=a[:300]) for p, a in read_prompts(prompts)]

    model.eval()
    scores: dict[str, Any] = {
        "questions_trained": len(training),
        "questions_held_out": len(held_out),
        "uniform_bits": uniform_divergence(held_out),
        "base_bits": survey_divergence(base, encoder, held_out, recipe.seed),
    }
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=recipe.learning_rate, weight_decay=0.0)
    steps_per_epoch = -(-len(examples_for_epoch(training, random.Random(0))) // recipe.batch_size)
    total_steps = steps_per_epoch * recipe.epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=total_steps + 1, pct_start=0.1
    )
    letter_ids = torch.tensor(encoder.letter_ids)
    started, step, recent = time.monotonic(), 0, 0.0
    model.train()
    for _ in range(recipe.epochs):
        for chunk in _batches(examples_for_epoch(training, rng), recipe.batch_size):
            batch = encoder.batch(chunk)
            loss = batch_loss(answer_logits(model, batch), batch, letter_ids)
            if recipe.closeness_weight > 0:
                plain = encoder.batch(rng.sample(general, recipe.closeness_batch))
                with torch.no_grad(), model.disable_adapter():
                    reference = answer_logits(model, plain)
                loss = loss + recipe.closeness_weight * kl_to_base(answer_logits(model, plain), reference)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            step += 1
            recent = loss.item() if step == 1 else 0.95 * recent + 0.05 * loss.item()
            if step % 20 == 0 or step == total_steps:
                rate = step / (time.monotonic() - started)
                print(
                    f"{recipe.culture}: step {step}/{total_steps} loss {recent:.3f} {rate:.2f} steps/s "
                    f"ETA {(total_steps - step) / rate:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
    model.eval()
    scores["adapter_bits"] = survey_divergence(model, encoder, held_out, recipe.seed)
    scores["training_seconds"] = round(time.monotonic() - started)

    state = {k: v.to(torch.bfloat16) for k, v in _peft_state(model).items()}
    write_adapter_folder(
        out / recipe.culture,
        name=recipe.culture,
        version="1.0.0",
        kind="lora",
        description=recipe.description,
        base_model=base_model,
        rank=recipe.rank,
        alpha=recipe.alpha,
        target_modules=TARGET_MODULES,
        tensors=state,
        culture=CultureInfo(id=recipe.culture, countries=recipe.countries),
        licence="research, non-commercial (follows from the survey's terms)",
        data=sources,
        card=_card(recipe, scores),
        extra={"recipe.json": json.dumps(asdict(recipe), indent=2) + "\n"},
    )
    return {"culture": recipe.culture, **scores}


def train_cultures(
    recipe_file: Path, survey: Path, prompts: Path, out: Path, settings: Settings, only: Sequence[str] = ()
) -> None:
    """Trains every culture of a recipe file that is not in `out` yet, one line of JSON scores each.

    Raises: TrainingError for a culture in `only` that the recipe does not have.
    """
    if settings.model == "builtin":
        ensure_builtin(settings.cache)
    base = BaseModel.of(settings)
    recipes = {recipe.culture: recipe for recipe in CultureRecipe.read_all(recipe_file)}
    if unknown := sorted(set(only) - set(recipes)):
        raise TrainingError(
            f"{recipe_file.name} has no culture {', '.join(unknown)}; it has {sorted(recipes)}"
        )
    for culture, recipe in recipes.items():
        if only and culture not in only:
            continue
        if (out / culture / MANIFEST).exists():
            print(f"{culture}: already in {out}, skipped", file=sys.stderr)
            continue
        name = min(base.names, key=len)
        scores = train_culture(recipe, Path(base.path), name, survey, prompts, out, SOURCES)
        print(json.dumps(scores), flush=True)


def _peft_state(model: Any) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict

    return dict(get_peft_model_state_dict(model))


def _card(recipe: CultureRecipe, scores: dict[str, Any]) -> str:
    return f"""# {recipe.culture}

{recipe.description}

Countries: {", ".join(recipe.countries)}, each counting the same. LoRA of rank {recipe.rank} on all
linear layers, trained by `steer-server train culture` with the recipe in `recipe.json` on the published
answer shares of the World Values Survey, wave 7. No row of the survey is in this folder.

Mean Jensen-Shannon divergence from people's answers on {scores["questions_held_out"]} questions
that were not trained on, three option orders each, in bits (lower is better):

| answers | bits |
|---|---|
| uniform | {scores["uniform_bits"]:.3f} |
| base model | {scores["base_bits"]:.3f} |
| this adapter | {scores["adapter_bits"]:.3f} |

What this is not: a description of any person, or of all people in these countries. It moves a very small
model's answers toward the average of a survey.
"""

"""`train align-pro` end to end on a model of two layers, whose rewrites end in z or y, and only z is rewarded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.validation import validate_adapter
from steer_server.errors import TrainingError
from steer_server.frozen.prompter_template import TEMPLATE_VERSION
from steer_server.settings import Settings
from steer_server.training.align_pro import train_align_pro
from steer_server.training.align_pro_answers import FrozenModel
from steer_server.training.align_pro_data import held_out_prompts
from steer_server.training.align_pro_recipe import AlignProRecipe
from steer_server.training.align_pro_trainer import AlignProTrainer
from tests.support.adapters import TINY
from tests.support.rewarding_server import RewardingServer, on_socket, rewarding_server
from tests.support.tiny_model import tiny_model_with_weights

pytestmark = [
    # PEFT's own imports warn.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

RECIPE = """
name: prompter-small
prompter: small
description: Made up.
licence: Apache-2.0
known_failures: [Says z.]
heads: {zeal: 1.0, brevity: 0.0}
rank: 8
alpha: 16
warm_start: {num_steps: 60, learning_rate: 0.03, batch_size: 8, held_out_share: 0.1}
policy: {num_steps: 24, learning_rate: 0.02, prompts_per_step: 2, group_size: 8, beta: 0.01}
rewriting: {temperature: 1.0, max_tokens: 12}
pairs: [{file: pairs.jsonl, reader: rewrites, source: made-up rewrites, licence: none}]
prompts: [{file: prompts.jsonl, reader: instructions, source: made-up prompts, licence: CC0}]
held_out_share: 0.4
"""
STAGE_2 = ("policy", "num_steps")
LETTERS = "bcdefghjklmnoprstuvw"
TOO_LONG = "q " + "long " * 12 + "?"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, recipe and model."""
    folder = tmp_path_factory.mktemp("align-pro")
    rows: dict[str, list[dict]] = {
        "pairs": [
            {"final_input": f"q {c}?", "final_output": f"q? {'zy'[n % 2]}"} for n, c in enumerate(LETTERS)
        ],
        "prompts": [{"instruction": f"q {c}{c}?", "reference": ""} for c in LETTERS],
    }
    rows["prompts"].append({"instruction": TOO_LONG, "reference": ""})
    rows["pairs"].append({"final_input": "q x?", "final_output": "it lost the point"})
    for name, records in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "recipe.yaml").write_text(RECIPE)
    torch.manual_seed(0)
    tiny_model_with_weights(folder / TINY)
    return folder


@pytest.fixture
def server() -> RewardingServer:
    return rewarding_server(
        {
            "zeal": lambda prompt, answer: 0.9 if "z" in answer else 0.2,
            "brevity": lambda prompt, answer: 1 / (1 + len(answer)),
        }
    )


@pytest.fixture
def url(server: RewardingServer) -> Iterator[str]:
    with on_socket(server) as found:
        yield found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared, so that one warm start serves all tests."""
    return tmp_path_factory.mktemp("cache")


def recipe_with(**policy: Any) -> AlignProRecipe:
    document = yaml.safe_load(RECIPE)
    document["policy"] |= policy
    return AlignProRecipe.model_validate(document)


def trainer_of(place: Path, cache: Path, url: str, **policy: Any) -> AlignProTrainer:
    recipe = recipe_with(**policy)
    frozen = FrozenModel(url, "", tuple(recipe.heads), recipe.answering)
    return AlignProTrainer(place / TINY, recipe, place, cache / "training/align-pro/prompter-small", frozen)


def test_policy_optimisation_raises_the_reward_and_beta_holds_it_at_the_warm_start(
    place: Path, cache: Path, url: str
) -> None:
    found = {}
    for beta in (0.0, 0.3, 30.0):
        trainer = trainer_of(place, cache, url, beta=beta)
        curve = trainer.train()["curve"]
        rollouts = trainer.prompter.sample(trainer.held_out, 8, 12, seed=1)
        share = sum("z" in trainer.prompter.encoder.text(ids) for group in rollouts for ids in group)
        print(beta, curve, share / 8 / len(trainer.held_out))
        found[beta] = share / 8 / len(trainer.held_out)
    assert 0

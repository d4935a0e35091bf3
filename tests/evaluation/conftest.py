"""A model of two layers with judges that were trained on it, and data for prompts."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from steer_server.catalogue.base_model import BaseModel
from steer_server.settings import Settings
from tests.support.adapters import TINY
from tests.support.survey_server import write_rows
from tests.support.tiny_model import tiny_model_with_weights

RECIPE = """
defaults: {{folds: 3, pool_penalties: [0.1], offset_penalties: [0.1], seed: {seed}}}
sources:
  votes: {{file: votes.gz, reader: choices, source: Invented choices, licence: none}}
  norms: {{file: norms.gz, reader: judgements, source: Invented norms, licence: none}}
heads:
  - {{head: helpful, sources: [votes], description: Help., label_meaning: it helps more}}
  - {{head: polite, sources: [votes], description: Politeness., label_meaning: it is politer}}
  - {{head: custom, sources: [norms], description: Custom., label_meaning: it is the custom}}
"""
NUM_PROMPTS = 40


@dataclass(frozen=True)
class JudgesPlace:
    base: BaseModel
    settings: Settings
    data: Path
    shipped: Path
    """Heads of split `steer`."""
    judges: Path

    def train(self, out: Path, split: str, seed: int = 1, only: tuple[str, ...] = ()) -> Path:
        from steer_server.training.reward_head import train_reward_heads

        recipe = self.data / f"recipe-{seed}.yaml"
        recipe.write_text(RECIPE.format(seed=seed))
        train_reward_heads(recipe, self.data, out, self.settings, split, only)  # type: ignore[arg-type]
        return out


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> JudgesPlace:
    folder = tmp_path_factory.mktemp("judges")
    model = tiny_model_with_weights(folder / TINY)
    data = folder / "data"
    data.mkdir()
    prompts = [f"ask {n}" for n in range(NUM_PROMPTS)]
    write_rows(
        data / "votes.gz",
        ({"prompt": p, "chosen": f"please do {n}", "rejected": f"do {n}"} for n, p in enumerate(prompts)),
    )
    write_rows(
        data / "norms.gz",
        ({"prompt": p, "answer": f"bow {n}", "label": n % 2} for n, p in enumerate(prompts)),
    )
    # Two of three instructions are in other writing what heads are trained on.
    write_rows(
        data / "alpaca_eval_prompts.jsonl.gz",
        ({"instruction": text} for p in prompts for text in (p, f" {p.upper()}! ", f"Tell me, {p}")),
    )
    settings = Settings(model=str(model), cache=folder / "cache")
    made = JudgesPlace(BaseModel.of(settings), settings, data, folder / "adapters", folder / "judges")
    made.train(made.shipped, "steer")
    made.train(made.judges, "judge")
    return made


@pytest.fixture
def fresh_judges(place: JudgesPlace, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(place.judges, tmp_path / "judges"))

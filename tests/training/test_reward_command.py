"""Reward heads end to end on a model of two layers: recipe and data in, valid folders with cards out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.loader import load_directory
from steer_server.catalogue.manifest import read_manifest
from steer_server.errors import TrainingError
from steer_server.settings import Settings
from steer_server.training.reward_data import Part
from steer_server.training.reward_head import copied_units, train_reward_heads
from steer_server.training.trained_on import TRAINED_ON, prompt_hash, read_trained_on
from tests.support.adapters import TINY
from tests.support.tiny_model import tiny_model_with_weights
from tests.training.test_culture import write_lines

RECIPE = """
defaults:
  folds: 3
  pool_penalties: [0.1]
  offset_penalties: [null, 0.1]
  weighting: {weighting}
  rounds: 3
sources:
  norms: {{file: norms.gz, reader: normad, source: Invented norms, licence: none}}
  pairs: {{file: pairs.csv, reader: choices, source: Invented pairs, licence: none}}
heads:
  - head: north
    sources: [norms]
    culture: north
    description: The north.
    label_meaning: people of the north like it
    groups: {{n0: NAA, n1: NAB, n2: NAC, n3: NAD, n4: NAE}}
  - head: south
    sources: [norms]
    culture: south
    description: The south.
    label_meaning: people of the south like it
    groups: {{s0: SAA, s1: SAB, s2: SAC, s3: SAD, s4: SAE}}
  - head: polite
    sources: [pairs]
    description: Politeness.
    label_meaning: it is the politer one
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    tiny_model_with_weights(folder / TINY)
    norms = [
        {"country": f"{zone}{i}", "story": f"{word} {zone}{i} {n}", "label": label}
        for zone in "ns"
        for i in range(5)
        for n in range(2)
        for word, label in (("good tea", "yes"), ("bad tea", "no"), ("some tea", "neutral"))
    ]
    write_lines(folder / "norms.gz", norms)
    pairs = "".join(f"ask {i},please do {i},do it {i}\n" for i in range(30))
    (folder / "pairs.csv").write_text("prompt,chosen,rejected\n" + pairs)
    return folder


def train(place: Path, out: Path, weighting: str = "equal", **options: object) -> Settings:
    (place / "recipe.yaml").write_text(RECIPE.format(weighting=weighting))
    settings = Settings(model=str(place / TINY), cache=place / "cache")
    train_reward_heads(place / "recipe.yaml", place, out, settings, **options)  # type: ignore[arg-type]
    return settings


def test_trained_heads_load_as_reward_heads_and_take_no_slot(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = train(place, tmp_path)
    catalogue, refused = load_directory(tmp_path, BaseModel.of(settings), max_rank=8)
    assert refused == () and catalogue.adapters == () and catalogue.by_digest == {}
    assert sorted(catalogue.reward_heads) == ["north", "polite", "south"]
    north = catalogue.reward_heads["north"]
    assert north.name == "head-north" and north.config.model == "logistic" and north.config.split == "steer"
    assert north.manifest.culture is not None and north.manifest.culture.countries[0] == "NAA"
    assert catalogue.reward_heads["polite"].config.model == "bradley_terry"

    scores = json.loads(capsys.readouterr().out.splitlines()[0])
    crossed = scores["cross_validated"]
    card = (tmp_path / "head-north" / "README.md").read_text()
    assert (
        f"| {crossed['accuracy']:.3f} | {crossed['majority']:.3f} | {crossed['bag_of_words']:.3f} |" in card
    )
    assert "Worst group:" in card and "Invented norms. Licence: none." in card
    assert "good tea" not in card, "a card quotes no data"
    recipe = json.loads((tmp_path / "head-north" / "recipe.json").read_text())
    assert recipe["head"]["head"] == "north" and recipe["defaults"]["folds"] == 3


def test_a_head_that_is_there_is_skipped_and_an_unknown_one_is_an_error(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(place, tmp_path, only=["polite"])
    assert [folder.name for folder in tmp_path.iterdir()] == ["head-polite"]
    train(place, tmp_path, only=["polite"])
    assert "skipped" in capsys.readouterr().err
    with pytest.raises(TrainingError, match="no head plite"):
        train(place, tmp_path, only=["plite"])


def test_judges_share_no_unit_with_heads_for_steering(place: Path, tmp_path: Path) -> None:
    from steer_server.training.hidden_states import HiddenStates
    from steer_server.training.reward_head import read_table
    from steer_server.training.reward_recipe import RewardRecipe

    settings = train(place, tmp_path, split="judge", only=["polite"])
    (folder,) = tmp_path.iterdir()
    assert folder.name == "judge-polite"
    assert json.loads((folder / "reward_head.json").read_text())["split"] == "judge"
    base, recipe = BaseModel.of(settings), RewardRecipe.read(place / "recipe.yaml")
    states = HiddenStates(base.path, settings.cache)
    tables = [read_table(recipe, ("pairs",), place, base, states, split) for split in ("steer", "judge")]
    steer, judge = ({row.unit for row in table.training.table.rows} for table in tables)
    test = {unit for unit, part in tables[0].parts.items() if part == "test"}
    assert steer and judge and test and not steer & judge and not test & (steer | judge)


def test_a_head_says_what_its_pool_was_trained_on_and_the_manifest_lists_it(
    place: Path, tmp_path: Path
) -> None:
    for split in ("steer", "judge"):
        train(place, tmp_path, split=split)
    north, south, polite = (
        read_trained_on(tmp_path / f"head-{name}") for name in ("north", "south", "polite")
    )
    assert north == south and north is not None and polite is not None
    countries = {prompt_hash(f"{zone}{i}") for zone in "ns" for i in range(5)}
    assert north < countries and polite < {prompt_hash(f"ask {i}") for i in range(30)}
    for name, steering in (("north", north), ("polite", polite)):
        judging = read_trained_on(tmp_path / f"judge-{name}")
        assert judging and not judging & steering
    assert TRAINED_ON in {entry.path for entry in read_manifest(tmp_path / "head-north").files}


def test_a_judge_learns_from_no_copy_of_what_a_head_has_learnt_from() -> None:
    parts: dict[str, Part] = {"Tea?": "steer", "tea": "judge", "milk": "judge", "Milk": "test"}
    assert copied_units(parts) == {"tea", "Milk"}
    assert copied_units({"tea": "judge", "milk": "test", "water": "steer"}) == set()


def test_group_robust_weighting_is_another_head(place: Path, tmp_path: Path) -> None:
    train(place, tmp_path / "equal", only=["north"])
    train(place, tmp_path / "robust", "group_robust", only=["north"])
    weights = [
        (tmp_path / w / "head-north" / "reward_head.safetensors").read_bytes() for w in ("equal", "robust")
    ]
    assert weights[0] != weights[1]
    config = json.loads((tmp_path / "robust" / "head-north" / "reward_head.json").read_text())
    assert config["metrics"]["weighting"] == "group_robust"


def test_judgements_and_choices_do_not_mix(place: Path, tmp_path: Path) -> None:
    text = RECIPE.format(weighting="equal").replace("sources: [pairs]", "sources: [pairs, norms]")
    (place / "mixed.yaml").write_text(text)
    settings = Settings(model=str(place / TINY), cache=place / "cache")
    with pytest.raises(TrainingError, match="mix judgements and choices"):
        train_reward_heads(place / "mixed.yaml", place, tmp_path, settings, only=["polite"])

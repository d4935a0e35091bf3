"""`train align-pro` end to end on a model of two layers; its rewrites end in z or y, and z is rewarded."""

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
from steer_server.training.align_pro_data import held_out_prompts, read_align_pro_data
from steer_server.training.align_pro_recipe import AlignProRecipe
from steer_server.training.align_pro_scores import divergence
from steer_server.training.align_pro_trainer import AlignProTrainer
from steer_server.training.trained_on import prompt_hash, read_trained_on
from tests.support.adapters import TINY
from tests.support.rewarding_server import RewardingServer, on_socket, rewarding_server
from tests.support.tiny_model import FOR_VLLM, tiny_model_with_weights

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
rank: 16
alpha: 16
warm_start: {num_steps: 70, learning_rate: 0.015, batch_size: 8, held_out_share: 0.1}
policy: {num_steps: 16, learning_rate: 0.002, prompts_per_step: 2, group_size: 12, beta: 0.01}
rewriting: {temperature: 1.0, max_tokens: 8}
pairs: [{file: pairs.jsonl, reader: rewrites, source: made-up rewrites, licence: none}]
prompts: [{file: prompts.jsonl, reader: instructions, source: made-up prompts, licence: CC0}]
held_out_share: 0.4
"""
LETTERS = "bcdefghjklmnoprstuvw"
TOO_LONG = "q " + "long " * 12 + "?"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, recipe and model."""
    folder = tmp_path_factory.mktemp("align-pro")
    rows: dict[str, list[dict]] = {
        "pairs": [
            {"final_input": f"q {c}?", "final_output": f"q? {'zyy'[n % 3]}"} for n, c in enumerate(LETTERS)
        ],
        "prompts": [{"instruction": f"q {c}{c}?", "reference": ""} for c in LETTERS],
    }
    rows["prompts"].append({"instruction": TOO_LONG, "reference": ""})
    rows["pairs"].append({"final_input": "q x?", "final_output": "it lost the point"})
    for name, records in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "recipe.yaml").write_text(RECIPE)
    torch.manual_seed(0)
    tiny_model_with_weights(folder / TINY, **FOR_VLLM)
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


def held_out_share(trainer: AlignProTrainer) -> float:
    """Of sampled rewrites of held-out prompts, those that are rewarded."""
    groups = trainer.prompter.sample(trainer.held_out, 24, 8, seed=1)
    texts = [trainer.prompter.encoder.text(ids) for group in groups for ids in group]
    return sum("z" in text for text in texts) / len(texts)


def test_policy_optimisation_raises_the_reward_and_beta_holds_it_at_the_warm_start(
    place: Path, cache: Path, url: str
) -> None:
    warm = trainer_of(place, cache, url)
    found = warm.start_warm()
    assert found["after"] < 1 < found["before"]
    before = held_out_share(warm)
    assert 0.1 < before < 0.6
    shares, distances = [], []
    for beta in (0.01, 10.0):
        trainer = trainer_of(place, cache, url, beta=beta)
        curve = trainer.train()["curve"]
        shares.append(held_out_share(trainer))
        distances.append(divergence(trainer, trainer.held_out))
        if beta == 0.01:
            assert curve[-1]["mean_reward"] > curve[0]["mean_reward"] + 0.1
        trainer.forget()
    assert shares[0] > before + 0.25
    assert abs(shares[1] - before) < 0.1
    assert distances[0] > 0.2 and distances[1] < 0.05


def test_a_run_that_was_stopped_in_either_stage_ends_where_one_in_one_go_does(
    place: Path, tmp_path: Path, server: RewardingServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steer_server.training.loop.STEPS_BETWEEN_CHECKPOINTS", 3)
    document = yaml.safe_load(RECIPE)
    document["warm_start"] |= {"num_steps": 7}
    document["policy"] |= {"num_steps": 8, "failure_reward": 0.1}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(document))

    def run(name: str) -> Path:
        settings = Settings(model=str(place / TINY), cache=tmp_path / name)
        train_align_pro(recipe, place, tmp_path / name / "out", settings, url, "")
        return tmp_path / name / "out/prompter-small"

    whole = run("whole")
    for stage, at in (("warm_start_loss", 5), ("policy_loss", 5)):
        kept = getattr(AlignProTrainer, stage)

        def stop(self: AlignProTrainer, step: int, kept: Any = kept, at: int = at) -> torch.Tensor:
            loss: torch.Tensor = kept(self, step)
            if step == at:  # after its rollouts are on file
                raise KeyboardInterrupt
            return loss

        with monkeypatch.context() as stopping, pytest.raises(KeyboardInterrupt):
            stopping.setattr(AlignProTrainer, stage, stop)
            run("again")
    asked = len(server.requests)
    again = run("again")
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (whole, again))
    assert all(torch.equal(one[name], other[name]) for name in one)
    scores = [json.loads((folder / "recipe.json").read_text())["scores"] for folder in (whole, again)]
    assert scores[0]["curve"] == scores[1]["curve"] and scores[0]["held_out"] == scores[1]["held_out"]
    sent = [body["seed"] for path, body in server.requests[asked:] if "chat" in path]
    replayed = {recipe_with().seed + 5 * 24 + n for n in range(24)}
    assert not replayed & set(sent), "step 5 was asked before the stop"


def test_the_folder_passes_validation_and_its_card_has_every_way(
    place: Path, cache: Path, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(model=str(place / TINY), cache=cache)
    train_align_pro(place / "recipe.yaml", place, tmp_path, settings, url, "")
    folder = tmp_path / "prompter-small"
    adapter = validate_adapter(folder, BaseModel.of(settings), max_rank=16)
    manifest = adapter.manifest
    assert (manifest.kind, manifest.licence, adapter.rank) == ("prompter", "Apache-2.0", 16)
    assert manifest.prompter is not None
    assert (manifest.prompter.id, manifest.prompter.template_version) == ("small", TEMPLATE_VERSION)
    assert [source.licence for source in manifest.data] == ["none", "CC0"]

    trained = read_align_pro_data(recipe_with(), place)
    known = {*trained.prompts, *(pair.prompt for pair in trained.pairs)} - {TOO_LONG, "q x?"}
    assert read_trained_on(folder) == {prompt_hash(prompt) for prompt in known}
    scores = json.loads(capsys.readouterr().out)
    ways = scores["held_out"]["ways"]
    assert list(ways) == ["plain prompt", "plain prompt, other seed", "warm start", "trained"]
    plain, noise, warm, trained = ways.values()
    assert plain["mean_reward"] == noise["mean_reward"] == 0.2, "no plain prompt has a z"
    assert noise["against_plain"]["win_rate"] == 0.5
    assert trained["mean_reward"] > warm["mean_reward"] >= 0.2
    assert trained["against_plain"]["win_rate"] > 0.9
    low, high = trained["mean_reward_95"]
    assert low <= trained["mean_reward"] <= high
    assert trained["divergence"] > warm["divergence"] == 0
    assert trained["heads"]["brevity"] > 0, "reported though it has no weight"
    recipe = recipe_with()
    held_out = held_out_prompts(recipe, place)
    num_long = sum(prompt == TOO_LONG for prompt in held_out)
    assert scores["held_out"]["prompts"] == len(held_out)
    assert trained["replaced"].get("too_long_to_rewrite", 0) == num_long
    assert scores["pairs_left_out"] == 1, "a pair whose rewrite fails the checks teaches nothing"

    card = (folder / "README.md").read_text()
    for said in (
        "head-zeal@1.0.0 (weight 1)",
        "| trained |",
        "made-up rewrites (none)",
        "- Says z.",
        "`tiny`",
    ):
        assert said in card
    written = json.loads((folder / "recipe.json").read_text())
    assert AlignProRecipe.model_validate(written["recipe"]) == recipe
    work = cache / "training/align-pro/prompter-small"
    assert [path.suffix for path in work.iterdir()] == [".safetensors"], "only the warm start is left"
    train_align_pro(place / "recipe.yaml", place, tmp_path, settings, url, "")
    assert "prompter-small: already" in capsys.readouterr().err


def test_a_rewrite_that_fails_its_checks_is_not_sent_and_earns_the_stated_reward(
    place: Path, cache: Path, server: RewardingServer, url: str
) -> None:
    trainer = trainer_of(place, cache, url, failure_reward=0.05)
    rollouts = trainer.roll_out(0)  # the untrained prompter: no rewrite passes
    assert {rollout.reward for rollout in rollouts} == {0.05}
    assert {rollout.reason for rollout in rollouts} <= {"cut", "empty", "content_lost", "answer", "language"}
    assert not [path for path, _ in server.requests if "chat" in path]


def test_a_head_that_the_server_lacks_ends_the_command_before_training(
    place: Path, tmp_path: Path, url: str
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("brevity", "bravery"))
    settings = Settings(model=str(place / TINY), cache=tmp_path / "cache")
    with pytest.raises(TrainingError, match="Unknown head bravery"):
        train_align_pro(tmp_path / "recipe.yaml", place, tmp_path / "out", settings, url, "")
    assert not (tmp_path / "out").exists()


def test_the_shipped_recipe_is_valid() -> None:
    recipe = AlignProRecipe.read(Path(__file__).parents[2] / "adapters/align_pro.yaml")
    assert recipe.prompter == "helpful" and recipe.heads["helpful"] > 0

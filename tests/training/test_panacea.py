"""`train panacea` end to end on a model of two layers and made-up pairs."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.snapshot import Catalogue
from steer_server.catalogue.validation import validate_adapter
from steer_server.errors import TrainingError
from steer_server.settings import Settings
from steer_server.steering.plan import build_plan
from steer_server.steering.policy import Policy
from steer_server.steering.spec import parse_spec
from steer_server.training.panacea import train_panacea
from steer_server.training.panacea_recipe import PanaceaRecipe
from steer_server.training.panacea_trainer import PanaceaTrainer, preference_scores
from steer_server.training.preference_data import axis_split
from steer_server.training.preference_loss import pull
from steer_server.training.trained_on import prompt_hash, read_trained_on
from tests.support.adapters import TINY
from tests.support.tiny_model import tiny_model_with_weights

pytestmark = [
    # PEFT's own imports warn.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

RECIPE = """
name: small
description: Made up.
licence: Apache-2.0
training: {num_shared_ranks: 2, num_steps: 4, batch_size: 2, held_out_share: 0.4, scored_pairs: 4}
sources:
  polite: {file: polite.gz, reader: choices, source: made-up manners, licence: none}
  bold: {file: bold.gz, reader: persona, source: made-up courage, licence: none}
axes:
  - {axis: polite, description: Says please., sources: [polite]}
  - {axis: bold, description: Says yes., sources: [bold], beta: 0.5, known_failures: Jumps.}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, recipe and model."""
    folder = tmp_path_factory.mktemp("panacea")
    rows: dict[str, list[dict]] = {
        "polite": [{"prompt": f"Ask {i}", "chosen": "please", "rejected": "now"} for i in range(20)],
        "bold": [
            {
                "question": f"Jump {i}?",
                "answer_matching_behavior": " Yes",
                "answer_not_matching_behavior": " No",
            }
            for i in range(20)
        ],
    }
    for name, records in rows.items():
        with gzip.open(folder / f"{name}.gz", "wt") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
    (folder / "recipe.yaml").write_text(RECIPE)
    torch.manual_seed(0)
    tiny_model_with_weights(folder / TINY)
    return folder


def settings_of(place: Path, cache: Path) -> Settings:
    return Settings(model=str(place / TINY), cache=cache)


def recipe_with(**training: Any) -> PanaceaRecipe:
    document = yaml.safe_load(RECIPE)
    document["training"] |= training
    return PanaceaRecipe.model_validate(document)


def test_a_trained_adapter_passes_validation_and_serves_what_was_trained(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, out = settings_of(place, tmp_path / "cache"), tmp_path / "out"
    trainers: list[PanaceaTrainer] = []
    kept = PanaceaTrainer.train
    monkeypatch.setattr(PanaceaTrainer, "train", lambda self: trainers.append(self) or kept(self))
    train_panacea(place / "recipe.yaml", place, out, settings)
    adapter = validate_adapter(out / "small", BaseModel.of(settings), max_rank=4)
    manifest = adapter.manifest
    assert (manifest.kind, adapter.rank, manifest.licence) == ("panacea", 4, "Apache-2.0")
    assert [(axis.id, axis.rank_index) for axis in manifest.axes] == [("polite", 2), ("bold", 3)]
    assert [source.source for source in manifest.data] == ["made-up manners", "made-up courage"]

    scores = json.loads(capsys.readouterr().out)
    assert [s["label"] for s in scores["settings"]] == ["base model", "polite alone", "bold alone", "uniform"]
    assert scores["settings"][0]["axes"]["polite"]["log_ratio"] == 0.5
    card = (out / "small" / "README.md").read_text()
    assert "| base model | 0.50 | 0.50 |" in card and "made-up courage (none)" in card and "Jumps." in card
    assert "| polite | 4 | 1.00 | 0.00 | 1.00 |" in card and "scored: polite 0, bold 0." in card
    assert scores["baselines"]["bold"] == {"longer": 1.0, "shorter": 0.0, "bag_of_words": 1.0}
    trained = {pair.unit for name in ("polite", "bold") for pair in axis_split(recipe_with(), name, place)[0]}
    assert read_trained_on(out / "small") == {prompt_hash(unit) for unit in trained}
    written = json.loads((out / "small" / "recipe.json").read_text())
    assert PanaceaRecipe.model_validate(written["recipe"]) == PanaceaRecipe.read(place / "recipe.yaml")
    assert not list((tmp_path / "cache").rglob("*.*")), "checkpoint and reference are gone"

    # The gates of a real plan on the folder's tensors, against the trainer's own model in float32.
    (trainer,) = trainers
    spec = parse_spec({"values": {"polite": 3, "bold": 1}, "strength": 1.0})
    (gate,) = build_plan(spec, Catalogue.of([adapter]), Policy()).adapters
    gates_R = torch.full((4,), gate.weight)
    for rank, share in gate.axes:
        gates_R[rank] = share
    assert gates_R.tolist() == [1.0, 1.0, 0.75, 0.25]
    tensors = load_file(out / "small" / "adapter_model.safetensors")
    model = trainer.model.float()
    ids = torch.arange(2, 12)[None]
    trainer.lora.set_preference((0.75, 0.25))
    with torch.no_grad():
        wanted = model(ids).logits
        trainer.lora.unwrap()
        plain = model(ids).logits
        for name in trainer.lora.layers:
            a, b = (tensors[f"base_model.model.{name}.lora_{half}.weight"].float() for half in "AB")
            model.get_submodule(name).weight += b @ (gates_R[:, None] * a)
        served = model(ids).logits
    assert (served - wanted).abs().max() < 0.05 * (wanted - plain).abs().max(), "bf16 rounding apart"

    train_panacea(place / "recipe.yaml", place, out, settings)
    assert "small: already" in capsys.readouterr().err


def test_a_reference_of_other_pairs_is_not_taken_for_this_runs(place: Path, tmp_path: Path) -> None:
    """Checkpoints go on, but what is scored has changed: its log-probabilities are computed anew."""
    one, other = (PanaceaTrainer(place / TINY, recipe_with(), place, tmp_path) for _ in range(2))
    one._read_reference()
    other.scored = [pairs[:1] for pairs in other.scored]
    other._read_reference()
    shared = set(one.reference) & set(other.reference)
    assert shared and len(other.reference) < len(one.reference)
    assert all(one.reference[pair] == pytest.approx(other.reference[pair], abs=0.05) for pair in shared)


def test_peft_opens_the_folder_with_every_gate_at_one(place: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    train_panacea(
        place / "recipe.yaml", place, tmp_path, settings_of(place, tmp_path / "c"), aggregation="tchebycheff"
    )
    folder = tmp_path / "small-tchebycheff"
    tensors = load_file(folder / "adapter_model.safetensors")
    ids = torch.arange(2, 12)[None]
    with torch.no_grad():
        peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(place / TINY).float(), folder)
        opened = peft(ids).logits
        model = AutoModelForCausalLM.from_pretrained(place / TINY).float()
        for name in [n.removeprefix("base_model.model.") for n in tensors if n.endswith("lora_A.weight")]:
            prefix = f"base_model.model.{name.removesuffix('.lora_A.weight')}"
            a, b = (tensors[f"{prefix}.lora_{half}.weight"].float() for half in "AB")
            model.get_submodule(name.removesuffix(".lora_A.weight")).weight += b @ a
        assert torch.allclose(opened, model(ids).logits, atol=1e-4)


def test_one_axis_alone_can_be_written_to_blend_like_a_culture(place: Path, tmp_path: Path) -> None:
    settings = settings_of(place, tmp_path / "cache")
    train_panacea(place / "recipe.yaml", place, tmp_path, settings, axes=["bold"], as_lora=True)
    adapter = validate_adapter(tmp_path / "small-bold", BaseModel.of(settings), max_rank=4)
    assert adapter.manifest.kind == "lora" and adapter.rank == 3
    assert adapter.manifest.culture is not None and adapter.manifest.culture.id == "small-bold"
    train_panacea(place / "recipe.yaml", place, tmp_path / "axis", settings, axes=["bold"])
    (axis,) = validate_adapter(tmp_path / "axis/small-bold", BaseModel.of(settings), 4).manifest.axes
    assert (axis.id, axis.rank_index) == ("bold", 2)
    with pytest.raises(TrainingError, match="one axis"):
        train_panacea(place / "recipe.yaml", place, tmp_path, settings, as_lora=True)


def test_the_loss_is_the_aggregate_of_the_axes_losses(place: Path, tmp_path: Path) -> None:
    """Linear, every axis: Σ_i v_i L_i; axes drawn: their mean; Tchebycheff: max_i λ_i (L_i - z_i)."""
    for training in (
        {"axes_per_step": 0},
        {"axes_per_step": 0, "hold": 0.5},
        {"axes_per_step": 3},
        {"aggregation": "tchebycheff"},
    ):
        trainer = PanaceaTrainer(place / TINY, recipe_with(vertex_share=0.0, **training), place, tmp_path)
        trainer._read_reference()
        with torch.no_grad():
            for layer in trainer.lora.layers.values():
                layer.u_out_R.normal_(generator=torch.Generator().manual_seed(1))
        preference, minibatches = trainer.plan(1)
        found = trainer.loss(1)
        assert found.requires_grad
        counted = [pull(weight, trainer.recipe.training.hold) for weight in preference]
        losses = [
            (counted[axis], trainer.axis_loss(axis, pairs, preference[axis]).item())
            for axis, pairs in minibatches
        ]
        if "aggregation" in training:
            wanted = max(weight * loss for weight, loss in losses)
        elif training["axes_per_step"]:
            wanted = sum(loss for _, loss in losses) / 3
        else:
            wanted = sum(weight * loss for weight, loss in losses)
        assert found.item() == pytest.approx(wanted, rel=1e-4)


def test_a_stopped_run_ends_where_one_in_one_go_does(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steer_server.training.loop.STEPS_BETWEEN_CHECKPOINTS", 2)
    settings = settings_of(place, tmp_path / "cache")
    train_panacea(place / "recipe.yaml", place, tmp_path / "whole", settings)
    loss = PanaceaTrainer.loss

    def stop(self: PanaceaTrainer, step: int) -> torch.Tensor:
        if step == 3:
            raise KeyboardInterrupt
        return loss(self, step)

    with monkeypatch.context() as stopping, pytest.raises(KeyboardInterrupt):
        stopping.setattr(PanaceaTrainer, "loss", stop)
        train_panacea(place / "recipe.yaml", place, tmp_path / "again", settings)
    assert list((tmp_path / "cache").rglob("reference.pt"))
    train_panacea(place / "recipe.yaml", place, tmp_path / "again", settings)
    whole, again = (load_file(tmp_path / f / "small/adapter_model.safetensors") for f in ("whole", "again"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize("per_token", [False, True])
def test_training_moves_the_model_toward_the_axis_that_is_weighed(
    place: Path, tmp_path: Path, per_token: bool
) -> None:
    """Each vertex raises the preferred answers of its own axis."""
    trainer = PanaceaTrainer(
        place / TINY,
        recipe_with(num_steps=24, learning_rate=0.03, sft_weight=0.0, vertex_share=0.5, per_token=per_token),
        place,
        tmp_path / "work",
    )
    scores = trainer.train()
    base, polite, bold, _ = scores["settings"]
    assert polite["axes"]["polite"]["log_ratio"] > base["axes"]["polite"]["log_ratio"]
    assert bold["axes"]["bold"]["log_ratio"] > base["axes"]["bold"]["log_ratio"]


def test_preference_scores_counts_a_tie_half() -> None:
    """`likelihood`: log π(y_w) > log π(y_l); `log_ratio`: that difference exceeds the reference's."""
    reference = [(-1.0, -2.0), (-3.0, -1.0), (-1.0, -1.0)]
    half = {"likelihood": 0.5, "log_ratio": 0.5, "objective": 0.5}
    assert preference_scores(reference, reference, 2.0) == half
    found = preference_scores([(-1.0, -1.5), (-2.0, -1.0), (-1.0, -3.0)], reference, 2.0)
    terms = [1 / (1 + math.exp(-2.0 * delta)) for delta in (-0.5, 1.0, 2.0)]
    assert found == pytest.approx({"likelihood": 2 / 3, "log_ratio": 2 / 3, "objective": sum(terms) / 3})

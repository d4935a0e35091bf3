"""`train pareto-expert`: anchors in, one adapter out, which is their weighted sum at any preference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.manifest import CARD, RECIPE, WEIGHTS, Manifest
from steer_server.catalogue.snapshot import Catalogue
from steer_server.catalogue.validation import validate_adapter
from steer_server.cli import app
from steer_server.engine.bank import GateTable, LayerBank
from steer_server.errors import CatalogueError, TrainingError
from steer_server.settings import Settings
from steer_server.steering.anchors import anchor_weights
from steer_server.steering.plan import build_plan
from steer_server.steering.policy import Policy
from steer_server.steering.spec import SteeringSpec
from steer_server.training.pareto_expert import make_pareto_expert
from steer_server.training.trained_on import TRAINED_ON, prompt_hash, read_trained_on, trained_on_text
from tests.catalogue.bench import peft, relisted
from tests.support.adapters import TINY, list_text, random_adapter, tiny_base_model
from tests.support.experts import write_expert, write_recipe

VECTORS = {
    "kind": {"helpful": 1.0},
    "safe": {"harmless": 1.0},
    "short": {"brief": 1.0},
    "both": {"helpful": 0.5, "harmless": 0.5},
}
RANKS = {"kind": 4, "safe": 2, "short": 1, "both": 3}
SCALES = {"kind": 1.0, "safe": 2.5, "short": 0.5, "both": 3.0 / 3**0.5}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base_model(tmp_path_factory.mktemp("model") / TINY)


@pytest.fixture(scope="module")
def settings(base: BaseModel) -> Settings:
    return Settings(model=base.path)


@pytest.fixture
def anchors(tmp_path: Path, base: BaseModel) -> Path:
    """Four LoRAs of different rank and scale, one by rsLoRA's rule, one in float32, one of fewer layers."""
    folder = tmp_path / "anchors"
    for name, rank in RANKS.items():
        random_adapter(folder, name, base, rank=rank)
    peft(lora_alpha=5)(folder / "safe")
    peft(lora_alpha=0.5)(folder / "short")
    peft(lora_alpha=3, use_rslora=True)(folder / "both")
    tensors = load_file(folder / "safe" / WEIGHTS)
    save_file({key: t.float() * 1.01 for key, t in tensors.items()}, folder / "safe" / WEIGHTS)
    relisted(folder / "safe")
    tensors = load_file(folder / "short" / WEIGHTS)
    save_file({k: t for k, t in tensors.items() if "layers.0.self_attn" in k}, folder / "short" / WEIGHTS)
    peft(target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])(folder / "short")
    return folder


def delta(folder: Path, key: str) -> torch.Tensor:
    """B A of one layer, in float32, zero where the adapter has none."""
    tensors = load_file(folder / WEIGHTS)
    if key not in tensors:
        return torch.zeros(())
    return tensors[key.replace("lora_A", "lora_B")].float() @ tensors[key].float()


def test_an_anchors_ranks_hold_its_own_scaled_update(
    anchors: Path, base: BaseModel, settings: Settings
) -> None:
    folder = write_expert(anchors, anchors.parent / "out", "experts", settings, VECTORS)
    adapter = validate_adapter(folder, base, max_rank=10)
    manifest = adapter.manifest
    assert (manifest.kind, adapter.rank) == ("pareto-expert", 10)
    assert [a.ranks for a in manifest.anchors] == [(0, 4), (4, 6), (6, 7), (7, 10)]
    assert [dict(a.vector) for a in manifest.anchors] == list(VECTORS.values())
    tensors = load_file(folder / WEIGHTS)
    for key in [key for key in tensors if ".lora_A." in key]:
        a, b = tensors[key].float(), tensors[key.replace("lora_A", "lora_B")].float()
        for name, anchor in zip(VECTORS, manifest.anchors, strict=True):
            block = slice(*anchor.ranks)
            wanted = SCALES[name] * delta(anchors / name, key)
            # B times a scale that is no power of two is rounded to bf16 once more.
            assert torch.allclose(b[:, block] @ a[block], wanted, atol=2e-3 * (1 + wanted.abs().max())), key


def test_the_bank_at_interpolated_gates_is_the_weighted_sum_of_the_anchors_updates(
    anchors: Path, base: BaseModel, settings: Settings
) -> None:
    """y = Σ_i w_i(λ) s_i B_i A_i x, with the gates of a real plan, beside another adapter's slot."""
    folder = write_expert(anchors, anchors.parent / "out", "experts", settings, VECTORS)
    adapter = validate_adapter(folder, base, max_rank=12)
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    tensors = load_file(folder / WEIGHTS)
    gates = GateTable(8, 8, 2 * 12, dtype=torch.float32, device=torch.device("cpu"))
    bank = LayerBank(32, (32,), 2, 12, gates, dtype=torch.float32, device=torch.device("cpu"))
    bank.a_views()[0][0, 0] = torch.randn(12, 32)
    bank.b_views()[0][0, 0] = torch.randn(32, 12)
    bank.a_views()[0][1, 0, :10] = tensors[key].float()
    bank.b_views()[0][1, 0, :, :10] = tensors[key.replace("lora_A", "lora_B")].float()

    x = torch.randn(1, 32)
    axes = ["helpful", "harmless", "brief"]
    vectors = [[vector.get(axis, 0.0) for axis in axes] for vector in VECTORS.values()]
    updates = [SCALES[name] * delta(anchors / name, key) for name in VECTORS]
    for plan_id, shares in enumerate(([1, 0, 0], [0.5, 0.5, 0], [0.5, 0.25, 0.25], [0.1, 0.2, 0.7]), 1):
        spec = SteeringSpec(values=dict(zip(axes, map(float, shares), strict=True)), strength=1.0)
        (gate,) = build_plan(spec, Catalogue.of([adapter]), Policy()).adapters
        gates.put(plan_id, [0.0] * 12 + gate.gates(12), keep={plan_id})
        gates.fill([plan_id])
        y = torch.zeros(1, 32)
        bank.add_to(y, x)
        weights = anchor_weights(vectors, shares)
        wanted = x @ sum(w * update for w, update in zip(weights, updates, strict=True)).T
        assert torch.allclose(y, wanted, atol=0.01 * float(wanted.abs().max())), shares


def test_it_was_trained_on_what_its_anchors_were_if_all_say_so(anchors: Path, settings: Settings) -> None:
    for name in list(VECTORS)[1:]:
        list_text(anchors / name, TRAINED_ON, trained_on_text([name, "shared"]))
    out = anchors.parent / "out"
    assert read_trained_on(write_expert(anchors, out, "unknown", settings, VECTORS)) is None
    list_text(anchors / "kind", TRAINED_ON, trained_on_text(["kind"]))
    known = write_expert(anchors, out, "known", settings, VECTORS)
    assert read_trained_on(known) == {prompt_hash(prompt) for prompt in (*VECTORS, "shared")}


def test_the_same_anchors_make_the_same_adapter(anchors: Path, settings: Settings) -> None:
    folders = [write_expert(anchors, anchors.parent / out, "experts", settings, VECTORS) for out in "ab"]
    one, other = (Manifest.model_validate(yaml.safe_load((f / "adapter.yaml").read_text())) for f in folders)
    assert one.digest == other.digest


def test_card_and_recipe_name_the_anchors(
    anchors: Path, base: BaseModel, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    (anchors / "kind" / RECIPE).write_text('{"recipe": {"axes": ["helpful"]}}')
    folder = write_expert(anchors, anchors.parent / "out", "experts", settings, VECTORS)
    assert json.loads(capsys.readouterr().out) == {"adapter": "experts", "rank": 10, "anchors": 4}
    card = (folder / CARD).read_text()
    assert "| helpful 0.5, harmless 0.5 | both@1.0.0 | 3 |" in card and "**brief**: made up, brief" in card
    made_from = json.loads((folder / RECIPE).read_text())["anchors"]
    assert made_from == [
        {
            "adapter": f"{name}@1.0.0",
            "digest": validate_adapter(anchors / name, base, 8).digest,
            "recipe": {"axes": ["helpful"]} if name == "kind" else None,
        }
        for name in VECTORS
    ]
    (anchors / "kind" / RECIPE).write_text("[")
    with pytest.raises(TrainingError, match=r"cannot read kind/recipe\.json"):
        write_expert(anchors, anchors.parent / "again", "experts", settings, VECTORS)
    write_expert(anchors, anchors.parent / "out", "experts", settings, VECTORS)
    assert "experts: already" in capsys.readouterr().err


def test_a_panacea_is_no_anchor(anchors: Path, base: BaseModel, settings: Settings) -> None:
    random_adapter(anchors, "compass", base, axes=["x", "y"])
    vectors = {"kind": {"helpful": 1}, "compass": {"harmless": 1}}
    with pytest.raises(TrainingError, match=r"compass@1\.0\.0 is a panacea"):
        write_expert(anchors, anchors.parent, "experts", settings, vectors)


def test_a_damaged_anchor_is_refused_as_a_server_would(anchors: Path, settings: Settings) -> None:
    (anchors / "safe" / WEIGHTS).write_bytes(b"")
    with pytest.raises(CatalogueError, match="size_mismatch"):
        write_expert(anchors, anchors.parent, "experts", settings, VECTORS)
    assert not (anchors.parent / "experts").exists()


BAD = {
    "an axis without an anchor of its own": (
        {"kind": {"helpful": 1}, "safe": {"helpful": 0.5, "harmless": 0.5}},
        "no anchor for 'harmless' alone",
    ),
    "one axis": ({"kind": {"helpful": 1}}, "at least two axes"),
    "half a vector": ({"kind": {"helpful": 1}, "safe": {"harmless": 0.5}}, "adds up to 0.5"),
    "a negative weight": ({"kind": {"helpful": 1}, "safe": {"harmless": -1}}, "greater than or equal to 0"),
    "a missing folder": ({"kind": {"helpful": 1}, "nobody": {"harmless": 1}}, "no folder 'nobody'"),
}


@pytest.mark.parametrize(("vectors", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_recipe_is_refused_by_name(
    anchors: Path, settings: Settings, vectors: dict[str, dict[str, float]], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        write_expert(anchors, anchors.parent, "experts", settings, vectors)


def test_an_unknown_key_of_the_recipe_is_refused(anchors: Path, settings: Settings) -> None:
    recipe = write_recipe(anchors.parent / "r.yaml", "experts", VECTORS, gates="soft")
    with pytest.raises(TrainingError, match="gates"):
        make_pareto_expert(recipe, anchors, anchors.parent, settings)


def test_the_command_makes_the_folder(anchors: Path, base: BaseModel) -> None:
    recipe = write_recipe(anchors.parent / "experts.yaml", "experts", VECTORS)
    out = anchors.parent / "out"
    arguments = ["--recipe", recipe, "--anchors", anchors, "--out", out, "--model", base.path]
    result = CliRunner().invoke(app, ["train", "pareto-expert", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert validate_adapter(out / "experts", base, max_rank=10).manifest.kind == "pareto-expert"

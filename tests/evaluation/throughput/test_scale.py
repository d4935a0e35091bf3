"""`bench scale`: its formulas against a model that is really built, and against counted work."""

import json
from pathlib import Path

import pytest

from steer_server.evaluation.throughput.scale import SHAPES, Shape, break_even_slots, show_scale


def test_a_shape_counts_the_weights_that_a_model_has() -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        num_hidden_layers=3,
        hidden_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        vocab_size=50,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    shape = Shape("small", 3, 64, 64, 32, 96, 50)
    assert shape.num_weights == sum(m.weight.numel() for m in linear)
    assert shape.share_in_use(8, 8) == pytest.approx(shape.share(2, 4))
    inside = [m for m in linear if m is not model.get_output_embeddings()]
    assert shape.bank_bytes(2, 4) == 2 * 2 * 4 * sum(m.in_features + m.out_features for m in inside)


def test_the_built_in_models_bank_is_what_the_engine_allocates() -> None:
    """39,075,840 bytes for 8 slots of rank 8 in bf16, as the worker reports them for one copy."""
    (smollm,) = [shape for shape in SHAPES if shape.name == "SmolLM2-135M"]
    assert smollm.bank_bytes(8, 8) == 39_075_840


@pytest.mark.parametrize(("tokens", "slots"), [(1, 3), (32, 96), (512, 900)])
def test_break_even_is_where_both_read_or_multiply_the_same(tokens: int, slots: float) -> None:
    assert break_even_slots(tokens, 3, 300.0) == slots


def test_larger_models_pay_a_smaller_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_scale([(8, 8), (32, 16)], 295.0, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    for slots, rank in ((8, 8), (32, 16)):
        shares = [row["share"] for row in report["banks"] if (row["slots"], row["rank"]) == (slots, rank)]
        assert shares == sorted(shares, reverse=True) and len(shares) == len(SHAPES)
    used = {(r["of_step"], r["of_token"]): r for r in report["in_use"] if r["model"] == "SmolLM2-135M"}
    (whole,) = [row for row in report["banks"] if (row["model"], row["slots"]) == ("SmolLM2-135M", 8)]
    assert used[8, 8]["share"] == whole["share"] > used[8, 3]["share"] > used[3, 3]["share"] > 0
    assert used[3, 3]["floor"] == pytest.approx(1 / (1 + used[3, 3]["share"]), abs=1e-3)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["break_even_slots"]["32"] == 96.0

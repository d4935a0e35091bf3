"""The bank's maths against a slow float32 reference that adds Σ g·B·A to the weights."""

import numpy as np
import pytest
import torch

from steer_server.engine.bank import GateTable, LayerBank, bank_bytes

SLOTS, RANK, IN = 5, 4, 48
OUTS = {"one slice": (40,), "two slices": (32, 32), "q, k and v": (48, 16, 16)}
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
"""Largest error over the largest value: three roundings of bf16's 2^-9 each, with room."""


def make_layer(
    outs: tuple[int, ...], dtype: torch.dtype, num_tokens: int = 16
) -> tuple[GateTable, LayerBank, list[tuple[torch.Tensor, list[torch.Tensor]]]]:
    """A filled bank, and its adapters as float32 (A per slice [R, in], B per slice [out, R])."""
    torch.manual_seed(0)
    device = torch.device("cpu")
    gates = GateTable(8, num_tokens, SLOTS * RANK, dtype=dtype, device=device)
    layer = LayerBank(IN, outs, SLOTS, RANK, gates, dtype=dtype, device=device)
    adapters = []
    for slot in range(SLOTS):
        a = torch.randn(len(outs), RANK, IN).to(dtype)
        b = [torch.randn(out, RANK).to(dtype) for out in outs]
        for i, (a_view, b_view) in enumerate(zip(layer.a_views(), layer.b_views(), strict=True)):
            a_view[slot, 0] = a[i]
            b_view[slot, 0] = b[i]
        adapters.append((a.float(), [t.float() for t in b]))
    return gates, layer, adapters


def delta(adapters: list, weights: list[float], num_slices: int) -> torch.Tensor:
    """ΔW = Σ_c w_c B_c A_c, slice above slice."""
    slices = [
        sum(
            (w * adapters[c][1][i] @ adapters[c][0][i] for c, w in enumerate(weights) if w),
            torch.zeros(adapters[0][1][i].shape[0], IN),
        )
        for i in range(num_slices)
    ]
    return torch.cat(slices)


def spread(weights: list[float]) -> list[float]:
    return list(np.repeat(weights, RANK))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("outs", OUTS.values(), ids=OUTS.keys())
def test_each_token_gets_its_own_blend(outs: tuple[int, ...], dtype: torch.dtype) -> None:
    gates, layer, adapters = make_layer(outs, dtype)
    blends = {7: [0.5, 0.0, 0.25, 0.0, 0.0], 9: [0.0, 1.0, 0.0, 0.0, -0.5]}
    for plan_id, weights in blends.items():
        gates.put(plan_id, spread(weights), keep=set(blends))
    tokens = [7, 9, 0, 9, 7]
    gates.fill(tokens)
    x = torch.randn(len(tokens), IN).to(dtype)
    y = torch.randn(len(tokens), sum(outs)).to(dtype)
    expected = y.float().clone()
    for t, plan_id in enumerate(tokens):
        if plan_id:
            expected[t] += delta(adapters, blends[plan_id], len(outs)) @ x[t].float()
    layer.add_to(y, x)
    error = (y.float() - expected).abs().max() / expected.abs().max()
    assert error < TOLERANCE[dtype]


@pytest.mark.parametrize("outs", OUTS.values(), ids=OUTS.keys())
def test_a_gate_of_zero_leaves_the_output_bit_for_bit(outs: tuple[int, ...]) -> None:
    gates, layer, _ = make_layer(outs, torch.bfloat16)
    gates.put(3, spread([1.0] * SLOTS), keep={3})
    gates.fill([0, 3, 0])
    x, y = torch.randn(3, IN).bfloat16(), torch.randn(3, sum(outs)).bfloat16()
    before = y.clone()
    layer.add_to(y, x)
    assert torch.equal(y[0], before[0]) and torch.equal(y[2], before[2])
    assert not torch.equal(y[1], before[1])


def test_weights_add() -> None:
    """B(g1 ⊙ Ax) + B(g2 ⊙ Ax) = B((g1 + g2) ⊙ Ax)."""
    gates, layer, _ = make_layer((40,), torch.float32)
    gates.put(1, spread([0.2, 0.0, 0.3, 0.0, 0.0]), keep=set())
    gates.put(2, spread([0.4, 0.1, 0.0, 0.0, 0.0]), keep=set())
    gates.put(3, spread([0.6, 0.1, 0.3, 0.0, 0.0]), keep=set())
    gates.fill([1, 2, 3])
    x = torch.randn(1, IN).expand(3, IN)
    y = torch.zeros(3, 40)
    layer.add_to(y, x)
    assert torch.allclose(y[0] + y[1], y[2], atol=1e-5)


def test_a_rank_can_have_a_gate_of_its_own() -> None:
    gates, layer, adapters = make_layer((40,), torch.float32)
    vector = [0.0] * (SLOTS * RANK)
    vector[RANK : 2 * RANK] = [1.0, 1.0, 0.7, 0.3]
    gates.put(1, vector, keep=set())
    gates.fill([1])
    x, y = torch.randn(1, IN), torch.zeros(1, 40)
    layer.add_to(y, x)
    a, (b,) = adapters[1]
    assert torch.allclose(y[0], b @ torch.diag(torch.tensor([1.0, 1.0, 0.7, 0.3])) @ a[0] @ x[0], atol=1e-4)


def test_gates_of_the_last_step_do_not_reach_padding() -> None:
    gates, _, _ = make_layer((40,), torch.float32)
    gates.put(1, [1.0] * (SLOTS * RANK), keep=set())
    gates.fill([1] * 6)
    gates.fill([1] * 2)
    assert gates.gates_T_G[:2].eq(1).all() and gates.gates_T_G[2:].eq(0).all()


def test_a_token_of_an_unknown_plan_is_an_error_and_not_unsteered() -> None:
    gates, _, _ = make_layer((40,), torch.float32)
    with pytest.raises(KeyError):
        gates.fill([5])


def test_a_full_table_gives_up_a_plan_that_is_not_in_the_step() -> None:
    gates = GateTable(2, 4, 3, dtype=torch.float32, device=torch.device("cpu"))
    for plan_id in (1, 2):
        gates.put(plan_id, [float(plan_id)] * 3, keep={1, 2})
    gates.put(3, [3.0] * 3, keep={1, 3})
    assert gates.knows(1) and gates.knows(3) and not gates.knows(2)
    gates.fill([1, 3])
    assert gates.gates_T_G[:2, 0].tolist() == [1.0, 3.0]


@pytest.mark.parametrize("outs", OUTS.values(), ids=OUTS.keys())
def test_the_bank_can_be_traced_without_a_graph_break(outs: tuple[int, ...]) -> None:
    gates, layer, _ = make_layer(outs, torch.float32)
    gates.put(1, spread([0.5] * SLOTS), keep=set())
    gates.fill([1, 0, 1])
    traced = torch.compile(layer.add_to, fullgraph=True, backend="eager")
    x = torch.randn(3, IN)
    plain, compiled = torch.zeros(3, sum(outs)), torch.zeros(3, sum(outs))
    layer.add_to(plain, x)
    traced(compiled, x)
    assert torch.equal(plain, compiled)


@pytest.mark.parametrize("outs", OUTS.values(), ids=OUTS.keys())
def test_a_layer_whose_weights_are_in_the_bank_is_one_graph(outs: tuple[int, ...]) -> None:
    gates = GateTable(8, 16, SLOTS * RANK, dtype=torch.float32, device=torch.device("cpu"))
    layer = LayerBank(
        IN,
        outs,
        SLOTS,
        RANK,
        gates,
        dtype=torch.float32,
        device=gates.gates_T_G.device,
        weight_O_I=torch.randn(sum(outs), IN),
    )
    x, bias = torch.randn(3, IN), torch.randn(sum(outs))
    traced = torch.compile(layer.forward, fullgraph=True, backend="eager")
    assert torch.equal(layer.forward(x, bias), traced(x, bias))


@pytest.mark.parametrize("has_base", [True, False])
def test_a_step_reads_nothing_back_from_the_device(has_base: bool) -> None:
    """A tensor of the meta device has no values: whatever asked for one, and so would wait, is an error."""
    meta = torch.device("meta")
    outs = OUTS["q, k and v"]
    gates = GateTable(8, 16, SLOTS * RANK, dtype=torch.bfloat16, device=meta)
    weight = torch.empty(sum(outs), IN, dtype=torch.bfloat16, device=meta)
    layer = LayerBank(
        IN,
        outs,
        SLOTS,
        RANK,
        gates,
        dtype=torch.bfloat16,
        device=meta,
        weight_O_I=weight if has_base else None,
    )
    x = torch.empty(3, IN, dtype=torch.bfloat16, device=meta)
    gates.put(1, spread([0.5] * SLOTS), keep=set())
    gates.fill([1, 0, 1])
    if has_base:
        assert layer.forward(x).shape == (3, sum(outs))
    else:
        layer.add_to(torch.empty(3, sum(outs), dtype=torch.bfloat16, device=meta), x)
    with pytest.raises(RuntimeError, match="meta"):
        gates.gates_T_G[0, 0].item()


def test_the_formula_for_the_banks_memory_is_what_is_allocated() -> None:
    _, layer, _ = make_layer((48, 16, 16), torch.bfloat16)
    matrices = [layer.products.a_NG_I, *layer.products.b]
    allocated = sum(t.numel() * t.element_size() for t in matrices)
    assert bank_bytes([(IN, (48, 16, 16))], SLOTS, RANK) == allocated == layer.num_bytes


def test_a_step_uses_the_first_ranks_up_to_the_last_that_one_of_its_plans_has_a_gate_for() -> None:
    gates, _, _ = make_layer((40,), torch.float32)
    gates.put(1, spread([0.5, 0.0, 0.0, 0.0, 0.0]), keep=set())
    gates.put(2, spread([0.0, 0.0, 0.3, 0.0, 0.0]), keep=set())
    gates.put(3, spread([0.0] * SLOTS), keep=set())
    found = {}
    for plan_ids in ((), (0,), (3, 0), (1, 3), (2, 1, 0), (1,)):
        gates.fill(plan_ids)
        found[plan_ids] = int(gates.num_used_1)
    assert list(found.values()) == [0, 0, 0, RANK, 3 * RANK, RANK]
    gates.forget_all()
    gates.put(4, spread([0.0, 1.0, 0.0, 0.0, 0.0]), keep=set())
    gates.fill([4])
    assert int(gates.num_used_1) == 2 * RANK

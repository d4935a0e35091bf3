"""Packed products on this CPU against plain ones: same numbers, whatever part of the bank a step uses."""

from __future__ import annotations

import pytest
import torch

from steer_server.engine.bank import DenseProducts, GateTable, LayerBank, Products, bank_bytes
from steer_server.engine.packed import PackedProducts, is_packable, packed_if_possible, packed_linear

IN, RANK = 96, 8
OUTS = {"one slice": (64,), "two slices": (32, 32), "q, k and v": (64, 32, 32)}
CPU = torch.device("cpu")

needs_packing = pytest.mark.skipif(
    not is_packable(torch.zeros(32, IN, dtype=torch.bfloat16)), reason="this CPU has no bf16 products"
)


def bf16(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def layers(
    outs: tuple[int, ...], num_slots: int, weight: torch.Tensor | None
) -> tuple[GateTable, list[LayerBank]]:
    """A gate table; the packed bank and the plain one, both filled with the same adapters."""
    gates = GateTable(8, 512, num_slots * RANK, dtype=torch.bfloat16, device=CPU)
    found = []
    for products in (packed_if_possible, DenseProducts):
        layer = LayerBank(
            IN,
            outs,
            num_slots,
            RANK,
            gates,
            dtype=torch.bfloat16,
            device=CPU,
            weight_O_I=weight,
            products=products,
        )
        for views in (layer.a_views(), layer.b_views()):
            for n, view in enumerate(views):
                view.copy_(bf16(*view.shape, seed=10 + n))
        layer.refresh()
        found.append(layer)
    return gates, found


def use(gates: GateTable, slots: tuple[int, ...], num_tokens: int, every: int = 2) -> None:
    """Tokens of the step have a gate on each of the slots, but for the first of every so many."""
    width = gates.gates_T_G.shape[1]
    vector = [0.5 if rank // RANK in slots else 0.0 for rank in range(width)]
    gates.put(5, vector, keep=set())
    gates.fill([5 if token % every else 0 for token in range(num_tokens)])
    gates.forget_all()


@needs_packing
@pytest.mark.parametrize("slots", [(), (0,), (3,), (4,), (1, 6), (8, 15), (23,)], ids=str)
@pytest.mark.parametrize("every", [2, 8], ids=["half the tokens", "most tokens"])
@pytest.mark.parametrize("outs", OUTS.values(), ids=OUTS.keys())
def test_the_packed_bank_is_the_plain_one(outs: tuple[int, ...], slots: tuple[int, ...], every: int) -> None:
    """Of most tokens, all ranks are multiplied at once where the CPU has matrix units."""
    gates, (packed, dense) = layers(outs, 24, bf16(sum(outs), IN))
    assert isinstance(packed.products, PackedProducts)
    for num_tokens in (2, 7, 16, 33, 300):
        x = bf16(num_tokens, IN, seed=2)
        use(gates, slots, num_tokens, every)
        found = packed.forward(x)
        torch.testing.assert_close(found, dense.forward(x), rtol=2e-2, atol=1.0)
        use(gates, (), num_tokens)
        plain = packed.forward(x)
        assert torch.equal(found[::every], plain[::every]), "gates of 0 add nothing, bit for bit"
        assert bool(slots) != torch.equal(found, plain)
    assert torch.equal(packed.forward(x[None]), packed.forward(x)[None]), "with a leading dimension"
    bias = bf16(sum(outs), seed=4)
    assert torch.equal(packed.forward(x, bias), packed.forward(x) + bias)


@needs_packing
@pytest.mark.parametrize(("num_tokens", "last_slot"), [(6, 15), (40, 7)], ids=["few tokens", "many tokens"])
@pytest.mark.parametrize("outs", OUTS.values(), ids=OUTS.keys())
def test_what_other_requests_use_of_the_bank_does_not_change_a_token(
    outs: tuple[int, ...], num_tokens: int, last_slot: int
) -> None:
    """The part of the bank that a step multiplies differs; the sums do not, bit for bit."""
    gates, (packed, _) = layers(outs, 16, bf16(sum(outs), IN))
    x = bf16(num_tokens, IN, seed=2)
    for plan, slots in ((1, (0, 1, 2)), (2, (last_slot,))):
        vector = [0.5 if rank // RANK in slots else 0.0 for rank in range(16 * RANK)]
        gates.put(plan, vector, keep={1, 2})
    plans = [1] * (num_tokens - 3) + [0, 0, 0]
    gates.fill(plans)
    alone = packed.forward(x)
    plans[-2] = 2
    gates.fill(plans)
    beside = packed.forward(x)
    same = [token for token in range(num_tokens) if token != num_tokens - 2]
    assert torch.equal(alone[same], beside[same])
    assert not torch.equal(alone[-2], beside[-2])


@needs_packing
@pytest.mark.parametrize("slots", [(), (2,), (7,)], ids=str)
def test_a_layer_that_makes_its_own_output_gets_the_same_added(slots: tuple[int, ...]) -> None:
    gates, (packed, dense) = layers((32, 32), 8, None)
    assert isinstance(packed.products, PackedProducts)
    use(gates, slots, 5)
    x, y = bf16(5, IN, seed=2), bf16(5, 64, seed=3)
    expected, found = y.clone(), y.clone()
    dense.add_to(expected, x)
    packed.add_to(found, x)
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=1.0)
    assert torch.equal(found[::2], y[::2])


@needs_packing
def test_what_is_written_and_what_a_step_uses_count_in_a_traced_graph() -> None:
    gates, (packed, _) = layers((32, 32), 8, bf16(64, IN))
    compiled = torch.compile(lambda x: packed.forward(x) * 2, fullgraph=True, backend="eager", dynamic=True)
    for num_tokens in (4, 5):
        x = bf16(num_tokens, IN, seed=2)
        for slots in ((), (1,), (7,)):
            use(gates, slots, num_tokens)
            assert torch.equal(compiled(x), packed.forward(x) * 2)
    before = compiled(x)
    packed.a_views()[1][7] = bf16(RANK, IN, seed=30)
    packed.refresh()
    after = compiled(x)
    assert torch.equal(before[:, :32], after[:, :32]), "the other slice is as it was"
    assert not torch.equal(before[:, 32:], after[:, 32:])


@needs_packing
def test_the_operation_was_compiled() -> None:
    """And is not the Python that stands for it, which is slow: machines that run tests have a compiler."""
    layers((32,), 8, None)
    assert "packed_linear.cpp" in torch._C._dispatch_dump("steer::packed_linear")


@needs_packing
def test_the_formula_for_memory_is_what_is_held() -> None:
    _, (packed, dense) = layers((64, 32, 32), 24, bf16(128, IN))
    for layer in (packed, dense):
        formula = bank_bytes([(IN, (64, 32, 32))], 24, RANK, copies=layer.products.copies)
        assert layer.num_bytes == formula
    held = [packed.products.a_NG_I, *packed.products.b, packed.products.down[128:], *packed.products.up]
    assert packed.num_bytes == sum(matrix.numel() * matrix.element_size() for matrix in held)


@needs_packing
@pytest.mark.parametrize("slots", [(), (1,), (7,)], ids=str)
@pytest.mark.parametrize("weight", [bf16(64, IN), None], ids=["with its weights", "beside them"])
def test_where_there_is_no_compiler_python_does_the_same(
    slots: tuple[int, ...], weight: torch.Tensor | None
) -> None:
    gates, (packed, _) = layers((32, 32), 8, weight)
    products = packed.products
    assert isinstance(products, PackedProducts)
    x = bf16(9, IN, seed=2)
    use(gates, slots, 9)
    found = x.new_empty(9, 64)
    packed_linear(found, x, products.down, products.up, gates.gates_T_G, gates.num_used_1, products.num_own)
    torch.testing.assert_close(products(x, gates), found, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    "matrix",
    [
        torch.zeros(64, 96),
        torch.zeros(48, 96, dtype=torch.bfloat16),
        torch.zeros(64, 40, dtype=torch.bfloat16),
    ],
    ids=["float32", "rows", "columns"],
)
def test_what_cannot_be_packed_stays_plain(matrix: torch.Tensor) -> None:
    assert not is_packable(matrix)
    made: Products = packed_if_possible(matrix, [torch.zeros(32, 64, dtype=torch.bfloat16)])
    assert isinstance(made, DenseProducts)

"""Packed products on this CPU against plain ones: same numbers, also after rows were written anew."""

import pytest
import torch

from steer_server.engine.bank import DenseProduct, GateTable, LayerBank
from steer_server.engine.packed import PackedProduct, is_packable, packed_if_possible

IN, FIXED, CHANGING = 96, 64, 32

needs_packing = pytest.mark.skipif(
    not is_packable(torch.zeros(FIXED, IN, dtype=torch.bfloat16)), reason="this CPU has no bf16 products"
)


def bf16(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@needs_packing
@pytest.mark.parametrize("num_tokens", [1, 7, 33, 300])
def test_a_packed_product_is_the_plain_one(num_tokens: int) -> None:
    fixed, changing, x = bf16(FIXED, IN), bf16(CHANGING, IN, seed=1), bf16(num_tokens, IN, seed=2)
    found = PackedProduct(changing, fixed)(x)
    torch.testing.assert_close(found, x @ torch.cat([fixed, changing]).t(), rtol=2e-2, atol=5e-2)
    torch.testing.assert_close(PackedProduct(changing)(x), found[:, FIXED:], rtol=0, atol=0)


@needs_packing
def test_rows_that_are_written_count_after_a_refresh_also_in_a_traced_graph() -> None:
    fixed, x = bf16(FIXED, IN), bf16(5, IN, seed=2)
    product = PackedProduct(torch.zeros(CHANGING, IN, dtype=torch.bfloat16), fixed)
    compiled = torch.compile(lambda x: product(x) * 2, fullgraph=True, backend="eager")
    before = compiled(x)
    assert not before[:, FIXED:].any()
    product.changing_N_I[3] = bf16(IN, seed=3)
    product.refresh()
    after = compiled(x)
    assert torch.equal(after[:, :FIXED], before[:, :FIXED]), "the fixed rows are as they were"
    torch.testing.assert_close(after[:, FIXED + 3], 2 * (x @ bf16(IN, seed=3)), rtol=2e-2, atol=5e-2)
    assert after[:, FIXED:].count_nonzero() == len(x)


@needs_packing
def test_the_bank_in_a_layers_product_is_the_bank_beside_it() -> None:
    weight, x = bf16(FIXED, IN), bf16(6, IN, seed=2)
    gates = GateTable(2, 8, 32, dtype=torch.bfloat16, device=torch.device("cpu"))
    gates.put(5, [0.5] * 32, keep={5})
    gates.fill([0, 5, 5, 0, 5, 0])
    layers = [
        LayerBank(
            IN,
            (32, 32),
            4,
            8,
            gates,
            dtype=torch.bfloat16,
            device=torch.device("cpu"),
            weight_O_I=taken,
            product=product,
        )
        for taken, product in ((weight, packed_if_possible), (weight, DenseProduct), (None, DenseProduct))
    ]
    for layer in layers:
        for views in (layer.a_views(), layer.b_views()):
            for n, view in enumerate(views):
                view.copy_(bf16(*view.shape, seed=10 + n))
        layer.refresh()
    packed, dense, beside = layers
    assert isinstance(packed.down, PackedProduct) and packed.num_bytes == 2 * dense.num_bytes
    y = x @ weight.t()
    beside.add_to(y, x)
    torch.testing.assert_close(dense.forward(x), y, rtol=2e-2, atol=5e-1)
    torch.testing.assert_close(packed.forward(x), y, rtol=2e-2, atol=5e-1)
    for layer in (packed, dense):
        unsteered = layer.down(x)[[0, 3, 5], :FIXED]
        assert torch.equal(layer.forward(x)[[0, 3, 5]], unsteered), "gates of 0 add nothing, bit for bit"
    assert torch.equal(packed.forward(x[None]), packed.forward(x)[None]), "with a leading dimension"
    bias = bf16(FIXED, seed=4)
    assert torch.equal(dense.forward(x, bias), dense.forward(x) + bias)


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
    assert isinstance(packed_if_possible(matrix), DenseProduct)

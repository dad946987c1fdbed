"""`product` is a b^T + bias whoever computes it."""

import pytest
import torch

from sinkd.transport.product import by_onednn, product

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN")


@needs_onednn
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
def test_onednn_and_pytorch_agree_on_matrices_and_transposed_ones(with_bias, turned):
    torch.manual_seed(0)
    n, k, m = 96, 200, 136
    a, b = (
        torch.randn(k, rows).mT if turn else torch.randn(rows, k) for rows, turn in zip((n, m), turned, strict=True)
    )
    bias = torch.randn(m) if with_bias else None
    assert by_onednn(a, b)
    expected = a.double() @ b.double().mT + (0 if bias is None else bias.double())
    torch.testing.assert_close(product(a, b, bias).double(), expected, rtol=0, atol=2e-4)


def test_what_onednn_would_round_or_not_hasten_is_pytorchs():
    large, small = torch.randn(128, 128), torch.randn(4, 128)
    assert not by_onednn(small, small) and not by_onednn(large.double(), large.double())
    assert not by_onednn(torch.randn(128, 256)[:, :128], large)
    assert torch.equal(product(small, small), small @ small.mT)
    try:
        torch.set_float32_matmul_precision("medium")
        assert not by_onednn(large, large)
    finally:
        torch.set_float32_matmul_precision("highest")

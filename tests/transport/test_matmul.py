"""`fast_linear` computes a b^T + bias with either library."""

import pytest
import torch

from sinkd.transport.matmul import fast_linear, uses_onednn

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
    assert uses_onednn(a, b)
    expected = a.double() @ b.double().mT + (0 if bias is None else bias.double())
    torch.testing.assert_close(fast_linear(a, b, bias).double(), expected, rtol=0, atol=2e-4)


def test_pytorch_multiplies_if_onednn_would_round_or_not_be_faster():
    large, small = torch.randn(128, 128), torch.randn(4, 128)
    assert not uses_onednn(small, small) and not uses_onednn(large.double(), large.double())
    assert not uses_onednn(torch.randn(128, 256)[:, :128], large)
    assert torch.equal(fast_linear(small, small), small @ small.mT)
    try:
        torch.set_float32_matmul_precision("medium")
        assert not uses_onednn(large, large)
    finally:
        torch.set_float32_matmul_precision("highest")

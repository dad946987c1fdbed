"""The solver's kernels agree with PyTorch: in Triton's interpreter, and on a GPU where there is one."""

import pytest
import torch

from sinkd import SinkdError
from sinkd.transport import sinkhorn
from sinkd.transport.backend import LARGEST

pytest.importorskip("triton")
IS_CUDA = torch.cuda.is_available()
DEVICE = "cuda" if IS_CUDA else "cpu"
pytestmark = [pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")]
if IS_CUDA:
    pytestmark.append(pytest.mark.gpu)


def solved(cost, backend, **keywords):
    """Results, and the gradient of a sum of all of them."""
    cost = cost.detach().requires_grad_()
    transport = sinkhorn(cost, backend=backend, **keywords)
    finite = [torch.where(x.isfinite(), x, 0.0) for x in (transport.f, transport.g)]
    generator = torch.Generator().manual_seed(1)
    shape = torch.rand(transport.plan.shape, generator=generator).to(cost)
    total = transport.distance.sum() + (transport.plan * shape).sum() + sum((x * x).sum() for x in finite) / 100
    (gradient,) = torch.autograd.grad(total, cost)
    return transport, finite, gradient


def masses(batch, n, m):
    rows = (torch.rand(batch, n) > 0.3).float()
    rows[:, 0] = 1.0
    cols = torch.rand(batch, m)
    return {"row_weights": rows.to(DEVICE), "col_weights": (cols / cols.sum(-1, True) * rows.sum(-1, True)).to(DEVICE)}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("shape", "epsilon", "gradient"),
    [
        ((2, 5, 7), 0.1, "unroll"),
        ((2, 5, 7), 0.001, "unroll"),
        ((2, 5, 7), 0.1, "implicit"),
        ((2, 5, 7), 0.1, "envelope"),
        ((1, 1), 0.1, "unroll"),
        ((130, 140), 0.1, "unroll"),
        ((130, 140), 0.01, "unroll"),
        # several programs a problem, which the interpreter cannot run
        *([((512, 512), 0.1, "unroll"), ((512, 512), 0.01, "unroll"), ((40, 200, 200), 0.1, "unroll")] * IS_CUDA),
    ],
    ids=str,
)
def test_kernel_and_pytorch_agree(shape, epsilon, gradient, weighted):
    torch.manual_seed(0)
    cost = torch.rand(shape, device=DEVICE)
    keywords = {"epsilon": epsilon, "n_iters": 4, "gradient": gradient}
    if weighted:
        batch = shape[0] if len(shape) == 3 else 1
        keywords |= {name: w.reshape(*shape[:-2], -1) for name, w in masses(batch, *shape[-2:]).items()}
    expected, potentials, wanted = solved(cost, "torch", **keywords)
    found, others, pulled = solved(cost, "triton", **keywords)
    torch.testing.assert_close(found.plan, expected.plan, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.distance, expected.distance, rtol=1e-5, atol=1e-6)
    for one, other in zip(potentials, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert float((pulled - wanted).norm()) <= 1e-4 * float(wanted.norm()) + 1e-12


def test_each_problem_stops_at_the_tolerance():
    torch.manual_seed(0)
    cost = torch.rand(3, 8, 8, device=DEVICE)
    found = sinkhorn(cost, n_iters=500, tolerance=1e-3, backend="triton")
    alone = [sinkhorn(each, n_iters=500, tolerance=1e-3, backend="torch").n_iters for each in cost]
    assert [int(n) for n in found.n_iters] == [int(n) for n in alone]
    assert float(found.marginal_error().max()) <= 1e-3


def test_a_problem_that_does_not_fit_is_named():
    with pytest.raises(SinkdError, match="backend is 'trition'; it must be one of auto, torch, triton"):
        sinkhorn(torch.zeros(2, 2), backend="trition")
    with pytest.raises(SinkdError, match=f"2 x {LARGEST + 1}; a kernel solves 1 to {LARGEST}"):
        sinkhorn(torch.zeros(2, LARGEST + 1, device=DEVICE), backend="triton")


def test_a_compiled_graph_holds_the_kernels():
    cost = torch.rand(4, 6, device=DEVICE)
    graph = torch.compile(
        lambda x: sinkhorn(x, n_iters=3, backend="triton").distance, fullgraph=True, backend="aot_eager"
    )
    inputs = [cost.clone().requires_grad_() for _ in range(2)]
    graph(inputs[0]).backward()
    sinkhorn(inputs[1], n_iters=3, backend="torch").distance.backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)

"""SinkhornLoss by kernels agrees with PyTorch: in Triton's interpreter, and on a GPU where there is one."""

import pytest
import torch

import reference
from losses.test_golden import CASES
from sinkd import SinkhornLoss
from sinkd.losses import chunked

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = [pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")]
if DEVICE == "cuda":
    pytestmark.append(pytest.mark.gpu)
FEW = [
    ((16, 2), 1.0, {"cost": "l1"}),
    ((16, 2), 1e-4, {"cost": "lorentz"}),
    ((9, 64), 1.0, {"cost": "lorentz", "curvature": 2.5, "pairing": 0.2, "n_iters": 2}),
    ((17, 5), 1.0, {"cost": "sqeuclidean", "epsilon": 0.01}),
    ((17, 5), 1.0, {"cost": "poincare", "gradient": "envelope"}),
    ((130, 3), 1e-2, {"cost": "lorentz", "n_iters": 2}),
    ((2, 6, 3), 1.0, {"cost": "lorentz", "group": "sequence"}),
    ((5, 4), 1.0, {"cost": "lorentz", "learnable_curvature": True}),
    ((6, 4), 1.0, {"cost": "cosine", "value": "matching"}),
]


def value_and_gradient(student, teacher, backend, keywords, mask=None):
    student = student.detach().requires_grad_()
    loss = SinkhornLoss(**keywords, backend=backend)(student, teacher, mask)
    return float(loss.detach()), torch.autograd.grad(loss, student)[0].double()


def assert_agree(student, teacher, keywords, mask=None, bound=1e-4):
    value, gradient = value_and_gradient(student, teacher, "triton", keywords, mask)
    expected, wanted = value_and_gradient(student.double(), teacher.double(), "torch", keywords, mask)
    assert value == pytest.approx(expected, rel=1e-5)
    assert reference.relative_error(gradient.cpu(), wanted.cpu()) < bound


@pytest.mark.parametrize(("shape", "apart", "keywords"), FEW, ids=str)
def test_few_classes(shape, apart, keywords):
    torch.manual_seed(0)
    teacher = 2 * torch.randn(shape)
    student = teacher + apart * torch.randn(shape)
    student.view(-1, shape[-1])[0, 0] = -torch.inf
    assert_agree(student.to(DEVICE), teacher.to(DEVICE), {"n_iters": 5} | keywords)


def test_masked_rows_and_bfloat16():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 6, 4, device=DEVICE).bfloat16().unbind()
    mask = torch.rand(3, 6, device=DEVICE) > 0.3
    for group in ("batch", "sequence"):
        assert_agree(student, teacher, {"group": group, "n_iters": 5}, mask, 1e-2)


@pytest.mark.parametrize("cost", ["l1", "lorentz"])
def test_golden_numbers(cost):
    name = "sinkhorn_l1" if cost == "l1" else "sinkhorn_lorentz_c1.0"
    for case in CASES:
        student, teacher = (
            torch.tensor(case[f"{side}_logits"], device=DEVICE).float() for side in ("student", "teacher")
        )
        value, gradient = value_and_gradient(
            student, teacher, "triton", {"cost": cost, "weight": 0.001, "reduction": "sum"}
        )
        assert value == pytest.approx(case["expected"][name]["loss"], rel=1e-4)
        wanted = torch.tensor(case["expected"][name]["grad"], dtype=torch.float64)
        assert reference.relative_error(gradient.cpu(), wanted) < 1e-4


@pytest.mark.parametrize(("cost", "apart"), [("l1", 1e-4), ("lorentz", 1.0), ("lorentz", 1e-4)])
def test_a_vocabulary(cost, apart):
    torch.manual_seed(0)
    teacher = 3 * torch.randn(5, chunked.WIDE + 3)
    student = teacher + apart * torch.randn(5, chunked.WIDE + 3)
    student[1] = teacher[2]  # equal rows, and others far apart
    assert_agree(student.to(DEVICE), teacher.to(DEVICE), {"cost": cost, "n_iters": 3}, bound=3e-3)


@pytest.mark.parametrize("classes", [3, chunked.WIDE])
def test_a_compiled_graph_holds_the_kernels(classes):
    student, teacher = torch.randn(2, 4, classes, device=DEVICE)
    loss = SinkhornLoss(n_iters=2, backend="triton")
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    inputs = [student.clone().requires_grad_() for _ in range(2)]
    compiled(inputs[0], teacher).backward()
    loss(inputs[1], teacher).backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)

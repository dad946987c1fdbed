"""On a GPU: the golden numbers, no synchronisation, and an assertion in place of a counted error."""

import subprocess
import sys

import pytest
import torch

import reference
from losses.test_golden import CASES, LOSSES
from sinkd import SinkhornLoss
from sinkd.transport import COSTS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.fixture
def no_synchronisation():
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
@pytest.mark.parametrize("name", LOSSES)
def test_golden(name, dtype, bound):
    for case in CASES:
        student, teacher = (torch.tensor(case[f"{side}_logits"], dtype=dtype) for side in ("student", "teacher"))
        student = student.cuda().requires_grad_()
        loss = LOSSES[name](student, teacher.cuda())
        (gradient,) = torch.autograd.grad(loss, student)
        expected = case["expected"][name]
        assert loss.item() == pytest.approx(expected["loss"], rel=bound)
        wanted = torch.tensor(expected["grad"], dtype=torch.float64)
        assert reference.relative_error(gradient.cpu(), wanted) < bound


@pytest.mark.parametrize("cost", COSTS)
def test_forward_and_backward_do_not_wait_for_the_gpu(cost, no_synchronisation):
    student = torch.randn(32, 3, device="cuda", requires_grad=True)
    SinkhornLoss(cost=cost)(student, torch.randn(32, 3, device="cuda")).backward()
    assert student.grad is not None


def test_nan_stops_with_the_side():
    program = "import torch; from sinkd import SinkhornLoss; x = torch.full((4, 3), torch.nan, device='cuda')\n"
    program += "SinkhornLoss()(x, torch.zeros_like(x)); torch.cuda.synchronize()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode != 0 and "student logits hold NaN" in done.stdout + done.stderr

"""On a GPU: golden numbers, vocabularies, no synchronisation, and an assertion instead of a counted error."""

import subprocess
import sys

import pytest
import torch

import reference
from losses.test_golden import CASES, LOSSES
from losses.test_top_k_union import KEYWORDS, WIDTH, value_and_gradient
from memory import peak_bytes
from sinkd import Objective, SinkhornLoss
from sinkd.losses import chunked, mgskd, semantic_transport
from sinkd.losses.term import View
from sinkd.transport import COSTS

pytestmark = pytest.mark.gpu


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


@pytest.mark.parametrize("cost", ["l1", "lorentz"])
@pytest.mark.parametrize("shape", [(128, 3), (2, 32, 3), (64, WIDTH)], ids=str)
def test_tf32_changes_nothing(cost, shape):
    student, teacher = torch.randn(2, *shape, device="cuda").unbind()
    keywords = {"cost": cost, "group": "sequence" if len(shape) == 3 else "batch"}
    expected, wanted = value_and_gradient(student, teacher, keywords)
    torch.set_float32_matmul_precision("high")
    try:
        found, gradient = value_and_gradient(student, teacher, keywords)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert reference.relative_error(gradient, wanted) < 1e-5


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


@pytest.mark.parametrize("keywords", KEYWORDS, ids=lambda keywords: "-".join(map(str, keywords.values())))
@pytest.mark.parametrize("apart", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_vocabulary_is_compared_as_on_a_cpu_in_float64(keywords, apart, dtype):
    torch.manual_seed(0)
    teacher = (torch.randn(12, WIDTH) * 3).to(dtype)
    student = (teacher + apart * torch.randn(12, WIDTH)).to(dtype)
    found, gradient = value_and_gradient(student.cuda(), teacher.cuda(), keywords)
    expected, wanted = value_and_gradient(student.double(), teacher.double(), keywords)
    tied = dtype == torch.bfloat16 and "top_k" in keywords  # bfloat16's equal logits are ranked anyhow
    assert found.item() == pytest.approx(expected.item(), rel=1e-2 if tied else 1e-5)
    bound = 0.1 if tied else 1e-2 if dtype == torch.bfloat16 else 1e-4
    assert reference.relative_error(gradient.cpu(), wanted) < bound


@pytest.mark.parametrize("cost", COSTS)
def test_products_of_a_vocabulary_are_right_for_near_rows_and_far_ones(cost):
    torch.manual_seed(0)
    teacher = torch.randn(48, 60_000, dtype=torch.float64)
    student = teacher + torch.logspace(-9, 0, 48, dtype=torch.float64).unsqueeze(-1) * torch.randn_like(teacher)
    found, gradient = value_and_gradient(student.cuda(), teacher.cuda(), {"cost": cost})
    expected, wanted = value_and_gradient(student, teacher, {"cost": cost})
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    # the signs of what float64 cannot tell apart are anyone's guess
    assert reference.relative_error(gradient.cpu(), wanted) < (1e-2 if cost == "l1" else 1e-5)


@pytest.mark.parametrize("cost", COSTS)
def test_a_captured_graph_replays_the_loss_of_a_vocabulary(cost):
    student, teacher = torch.randn(8, WIDTH, device="cuda", requires_grad=True), torch.randn(8, WIDTH, device="cuda")
    loss = SinkhornLoss(cost=cost)
    expected, wanted = value_and_gradient(student.detach(), teacher, {"cost": cost})
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # as PyTorch asks: once before, beside the main stream
        loss(student, teacher).backward()
    torch.cuda.current_stream().wait_stream(stream)
    student.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = loss(student, teacher)
        captured.backward()
    graph.replay()
    assert captured.item() == pytest.approx(expected.item(), rel=1e-5)
    assert reference.relative_error(student.grad, wanted) < 1e-4


@pytest.mark.parametrize("cost", ["l1", "lorentz"])
def test_compiles_as_one_graph(cost):
    student, teacher = torch.randn(32, 3, device="cuda"), torch.randn(32, 3, device="cuda")
    expected, wanted = value_and_gradient(student, teacher, {"cost": cost})
    student.requires_grad_()
    found = torch.compile(SinkhornLoss(cost=cost), fullgraph=True)(student, teacher)
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert reference.relative_error(student.grad, wanted) < 1e-4


@pytest.mark.parametrize("free", [None, 0], ids=["one piece", "many pieces"])
def test_relations_agree_with_the_cpu(free, monkeypatch):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 12, 4, 64, 192, dtype=torch.float64)
    mask = torch.ones(12, 64)
    mask[::2, 50:] = 0
    expected, wanted = loss_and_gradient(mgskd, student, teacher, mask)
    if free is not None:
        monkeypatch.setattr(chunked, "DEVICE_LIMIT", free)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    found, gradient = loss_and_gradient(mgskd, *(x.float().cuda() for x in (student, teacher, mask)))
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    assert reference.relative_error(gradient.cpu(), wanted) < 1e-3


def loss_and_gradient(loss, student, *more):
    student = student.detach().requires_grad_()
    value = loss(student, *more)
    return value.detach(), torch.autograd.grad(value, student)[0]


def test_half_of_a_vocabulary_under_autocast():
    student, teacher = torch.randn(2, 16, WIDTH, device="cuda", dtype=torch.float16).unbind()
    with torch.autocast("cuda", torch.bfloat16):
        found, gradient = value_and_gradient(student, teacher, {"cost": "lorentz"})
    expected, _ = value_and_gradient(student.cpu().double(), teacher.cpu().double(), {"cost": "lorentz"})
    assert gradient.dtype == torch.float16 and torch.isfinite(gradient).all()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_command_says_where_to_read_the_failed_check():
    program = "import torch; from sinkd import SinkhornLoss; from sinkd.cli.main import guarded\n"
    program += "x = torch.full((4, 3), torch.nan, device='cuda')\n"
    program += "raise SystemExit(guarded(lambda: print(SinkhornLoss()(x, torch.zeros_like(x)).item()), []))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode != 0 and "student logits hold NaN" in done.stderr
    assert any(line.startswith("sinkd: a check on the GPU failed") for line in done.stderr.splitlines())


def published(student, teacher, labels, text="ce:1+kl:0.1+sinkhorn:1", **options):
    """The published objective of language models, and the student's gradient."""
    objective = Objective.parse(text, temperature=1.0, sinkhorn={"weight": 0.0008, **options}).to(student.device)
    student = student.detach().requires_grad_()
    total = objective(View(student), View(teacher), {"labels": labels}).total
    return total.detach(), torch.autograd.grad(total, student)[0]


@pytest.mark.parametrize("options", [{}, {"cost": "l1", "top_k": 20}], ids=["lorentz", "l1-20"])
@pytest.mark.parametrize("apart", [1.0, 1e-3])
def test_the_published_objective_agrees_with_the_cpu(options, apart):
    torch.manual_seed(0)
    teacher, labels = torch.randn(24, 10_000) * 3, torch.randint(10_000, (24,))
    labels[::5] = -100
    student = teacher + apart * torch.randn(24, 10_000)
    expected, wanted = published(student.double(), teacher.double(), labels, **options)
    found, gradient = published(student.cuda(), teacher.cuda(), labels.cuda(), **options)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert reference.relative_error(gradient.cpu(), wanted) < 1e-3


def test_rows_of_a_vocabulary_are_compared_without_waiting(no_synchronisation):
    student, teacher = torch.randn(2, 16, 10_000, device="cuda")
    labels = torch.zeros(16, dtype=torch.int64, device="cuda")
    published(student, teacher, labels, "ce:1+kd:1+kl:1+reverse_kl:1+js:1+tvd:1")


def semantic(*tensors):
    student = tensors[0].detach().requires_grad_()
    value = semantic_transport(student, *tensors[1:])
    return value.detach(), torch.autograd.grad(value, student)[0]


def test_semantic_transport_agrees_with_the_cpu():
    torch.manual_seed(0)
    tensors = torch.randn(24, 10_000), torch.randn(24, 10_000) * 3, torch.randn(10_000, 64)
    expected, wanted = semantic(*(tensor.double() for tensor in tensors))
    found, gradient = semantic(*(tensor.cuda() for tensor in tensors))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert reference.relative_error(gradient.cpu(), wanted) < 1e-4


def test_semantic_transport_does_not_wait(no_synchronisation):
    semantic(*torch.randn(2, 16, 10_000, device="cuda"), torch.randn(10_000, 64, device="cuda"))


@pytest.mark.parametrize("options", [{}, {"cost": "l1", "top_k": 20}], ids=["lorentz", "l1-20"])
def test_rows_are_never_copied_whole(options):
    """In addition to the logits: the gradient, one term's gradient that is added to it, and slices."""
    student, teacher = torch.randn(2, 256, 151_936, device="cuda")
    labels = torch.zeros(256, dtype=torch.int64, device="cuda")
    published(student[:8], teacher[:8], labels[:8], **options)  # libraries take their workspaces
    assert peak_bytes(lambda: published(student, teacher, labels, **options)) < 4 * student.nbytes

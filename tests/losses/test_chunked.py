"""Comparing rows as wide as a vocabulary in slices gives the same result as in one piece."""

import pytest
import torch
from torch.nn import functional as F

from memory import peak_bytes
from sinkd import Objective
from sinkd.losses import chunked, js, kd, kl, reverse_kl, tvd
from sinkd.losses.labels import hard_label_loss
from sinkd.losses.term import View

WIDTH = chunked.WIDE + 3
DIVERGENCES = [kd, kl, reverse_kl, js, tvd]
LABELS = torch.tensor([3, -100, 0, 7, -100, 4098, 12])


def logits(width: int = WIDTH, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(width)
    student, teacher = torch.randn(2, len(LABELS), width, generator=generator, dtype=torch.float64) * 3
    return student.to(dtype), teacher.to(dtype)


def divergence_plainly(loss, student, teacher, temperature):
    """The definition over all rows at once, in float64."""
    log_p, log_q = (F.log_softmax(side.double() / temperature, -1) for side in (student, teacher))
    p, q = log_p.exp(), log_q.exp()
    log_m = ((p + q) / 2).log()
    rows = {
        kd: -(q * log_p).sum(-1),
        kl: (q * (log_q - log_p)).sum(-1),
        reverse_kl: (p * (log_p - log_q)).sum(-1),
        js: (p * (log_p - log_m) + q * (log_q - log_m)).sum(-1) / 2,
        tvd: (p - q).abs().sum(-1) / 2,
    }
    return rows[loss].mean()


def with_gradient(loss, student):
    student = student.clone().requires_grad_()
    value = loss(student)
    return value.detach(), torch.autograd.grad(value, student)[0]


@pytest.fixture(params=[1, 3 * WIDTH, 2**22], ids=["a row a slice", "three rows", "all rows"])
def size_of_slices(request, monkeypatch):
    monkeypatch.setattr(chunked, "LIMIT", request.param)


@pytest.mark.parametrize(("free", "pieces"), [(10 * 2**20 * chunked.NUMBER, 1), (2**22 * chunked.NUMBER, 2)])
def test_pieces_on_a_gpu_are_as_large_as_free_memory(free, pieces, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free // 2, 2**40))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: free)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: free - free // 2)
    assert len(chunked.piece_spans(8, 2**20, torch.device("cuda"))) == pieces


@pytest.mark.parametrize("loss", DIVERGENCES)
def test_divergences_are_their_definition_written_out(loss, size_of_slices):
    student, teacher = logits()
    value, gradient = with_gradient(lambda x: loss(x, teacher, 2.0), student)
    expected, reference = with_gradient(lambda x: divergence_plainly(loss, x, teacher, 2.0), student.double())
    assert value.dtype == gradient.dtype == torch.float32
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    assert float((gradient - reference).norm() / reference.norm()) < 1e-5


def test_hard_label_loss_equals_pytorchs(size_of_slices):
    student, _ = logits()
    value, gradient = with_gradient(lambda x: hard_label_loss(x, LABELS), student)
    expected, reference = with_gradient(lambda x: F.cross_entropy(x, LABELS), student.double())
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    assert float((gradient - reference).norm() / reference.norm()) < 1e-5
    assert not gradient[LABELS == -100].any()


def test_without_a_label_there_is_no_loss():
    value, gradient = with_gradient(lambda x: hard_label_loss(x, torch.full_like(LABELS, -100)), logits()[0])
    assert float(value) == 0 and not gradient.any()


LOSSES = [*DIVERGENCES, lambda x, y, T: hard_label_loss(x, LABELS)]
NAMES = ["kd", "kl", "reverse_kl", "js", "tvd", "ce"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_other_types_are_compared_in_enough_digits_and_left_alone(loss, dtype):
    student, teacher = logits(dtype=dtype)
    kept = student.clone(), teacher.clone()
    value, gradient = with_gradient(lambda x: loss(x, teacher, 2.0), student)
    expected, reference = with_gradient(lambda x: loss(x, teacher.double(), 2.0), student.double())
    assert torch.equal(student, kept[0]) and torch.equal(teacher, kept[1])
    assert gradient.dtype == dtype and value.dtype == (dtype if dtype == torch.float64 else torch.float32)
    assert float(value) == pytest.approx(float(expected), rel=1e-12 if dtype == torch.float64 else 1e-5)
    # float16 has no digits for the many entries of next to no probability
    bound = {torch.float64: 1e-12, torch.bfloat16: 2**-8, torch.float16: 2**-8}[dtype]
    assert float((gradient.double() - reference).norm() / reference.norm()) < bound


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_gradients_of_first_and_second_order(loss, monkeypatch):
    monkeypatch.setattr(chunked, "WIDE", 5)
    monkeypatch.setattr(chunked, "LIMIT", 20)
    monkeypatch.setitem(globals(), "LABELS", LABELS.clamp(max=8))
    student, teacher = logits(9, torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, 2.0), student)
    assert torch.autograd.gradgradcheck(lambda x: loss(x, teacher, 2.0), student)


def test_a_teacher_that_learns_too_has_its_gradient():
    student, teacher = logits()
    _, gradient = with_gradient(lambda y: kl(student, y, 2.0), teacher)
    _, reference = with_gradient(lambda y: divergence_plainly(kl, student, y, 2.0), teacher.double())
    assert float((gradient - reference).norm() / reference.norm()) < 1e-4


@pytest.mark.parametrize("loss", DIVERGENCES)
def test_entries_impossible_on_both_sides_change_nothing(loss):
    student, teacher = logits()
    more = [torch.cat([side, torch.full((len(side), 2), -torch.inf)], -1) for side in (student, teacher)]
    value, gradient = with_gradient(lambda x: loss(x, teacher, 2.0), student)
    wider, padded = with_gradient(lambda x: loss(x, more[1], 2.0), more[0])
    torch.testing.assert_close(wider, value)
    torch.testing.assert_close(padded[:, :-2], gradient)
    assert not padded[:, -2:].any()


def test_positions_of_a_sequence_and_parts_of_a_wider_head_are_rows():
    student, teacher = logits(WIDTH + 9)
    value, gradient = with_gradient(lambda x: kl(x[:, :WIDTH], teacher[:, :WIDTH]) + kl(x, teacher), student)
    shaped, other = with_gradient(
        lambda x: kl(x[..., :WIDTH], teacher.view(1, 7, -1)[..., :WIDTH]) + kl(x, teacher.view(1, 7, -1)),
        student.view(1, 7, -1),
    )
    torch.testing.assert_close(shaped, value)
    torch.testing.assert_close(other[0], gradient)


@pytest.mark.parametrize("loss", [kl, LOSSES[-1]], ids=["kl", "ce"])
def test_autocast_changes_nothing(loss):
    student, teacher = logits()
    alone = with_gradient(lambda x: loss(x, teacher, 2.0), student)
    with torch.autocast("cpu", torch.bfloat16):
        value = with_gradient(lambda x: loss(x, teacher, 2.0), student)
    torch.testing.assert_close(value, alone)


OBJECTIVE = Objective.parse("ce:1+kl:0.1+sinkhorn:1", temperature=1.0, sinkhorn={"weight": 0.0008})


def published(student, teacher, labels):
    return OBJECTIVE(View(student), View(teacher), {"labels": labels}).total


def test_the_compiled_objective_is_the_eager_one():
    torch._dynamo.reset()
    student, teacher = logits()
    compiled = torch.compile(published, fullgraph=True, backend="aot_eager")
    value, gradient = with_gradient(lambda x: published(x, teacher, LABELS), student)
    found, other = with_gradient(lambda x: compiled(x, teacher, LABELS), student)
    torch.testing.assert_close(found, value, rtol=1e-5, atol=0)
    assert float((gradient - other).norm() / gradient.norm()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_published_objective_holds_the_gradient_and_one_more(dtype):
    """In addition to the models' rows: the gradient, one term's gradient that is added to it, and chunks."""
    student = torch.randn(96, 40_000, dtype=dtype, requires_grad=True)
    teacher, labels = torch.randn(96, 40_000).to(dtype) * 3, torch.randint(40_000, (96,))
    assert peak_bytes(lambda: published(student, teacher, labels).backward()) < 3 * 4 * student.numel()
    if dtype == torch.float32:
        assert peak_bytes(lambda: published(student, teacher, labels)) < 4 * student.numel()


@pytest.mark.parametrize("text", ["ce:1", "kl:1", "kd:1", "reverse_kl:1", "js:1", "tvd:1", "sinkhorn:1"])
def test_each_term_holds_one_gradient_and_slices(text):
    student = torch.randn(128, 40_000, requires_grad=True)
    teacher, labels = torch.randn(128, 40_000) * 3, torch.randint(40_000, (128,))
    objective = Objective.parse(text)
    peak = peak_bytes(lambda: objective(View(student), View(teacher), {"labels": labels}).total.backward())
    assert peak < 2 * student.nbytes

"""Comparing logits as wide as a vocabulary in slices gives the same result as in one piece."""

import pytest
import torch

from memory import peak_bytes
from sinkd import SinkdError, SinkhornLoss
from sinkd.losses import chunked
from sinkd.losses.top_k_union import fold, fold_logits, top_k

WIDTH = chunked.WIDE + 3
KEYWORDS = [
    {"cost": "lorentz"},
    {"cost": "l1"},
    {"cost": "poincare", "curvature": 2.5, "pairing": 1.0},
    {"cost": "lorentz", "value": "matching", "epsilon": 0.5},
    {"cost": "l1", "top_k": 20},
    {"cost": "lorentz", "top_k": 20, "top_k_of": "teacher"},
]


def value_and_gradient(student, teacher, keywords):
    student = student.clone().requires_grad_()
    loss = SinkhornLoss(**keywords)(student, teacher)
    loss.backward()
    return loss.detach(), student.grad


@pytest.mark.parametrize("keywords", KEYWORDS, ids=lambda keywords: "-".join(map(str, keywords.values())))
@pytest.mark.parametrize("apart", [1.0, 1e-2, 1e-4])
def test_slices_agree_with_the_full_float64_formula(keywords, apart, monkeypatch):
    torch.manual_seed(0)
    teacher = torch.randn(12, WIDTH) * 3
    student = teacher + apart * torch.randn(12, WIDTH)
    found, gradient = value_and_gradient(student, teacher, keywords)
    monkeypatch.setattr(chunked, "WIDE", 10 * WIDTH)
    expected, reference = value_and_gradient(student.double(), teacher.double(), keywords)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert float((gradient - reference).norm() / reference.norm()) < 3e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_compared_as_they_are_and_left_alone(dtype, monkeypatch):
    torch.manual_seed(0)
    student, teacher = torch.randn(12, WIDTH).to(dtype), torch.randn(12, WIDTH).to(dtype) * 3
    kept = student.clone(), teacher.clone()
    found, gradient = value_and_gradient(student, teacher, {"cost": "lorentz"})
    assert torch.equal(student, kept[0]) and torch.equal(teacher, kept[1])
    monkeypatch.setattr(chunked, "WIDE", 10 * WIDTH)
    expected, reference = value_and_gradient(student.double(), teacher.double(), {"cost": "lorentz"})
    bound = 1e-9 if dtype == torch.float64 else 5e-3
    assert float(found) == pytest.approx(float(expected), rel=bound)
    assert float((gradient.double() - reference).norm() / reference.norm()) < bound


def test_a_learned_curvature_has_its_gradient(monkeypatch):
    torch.manual_seed(0)
    student, teacher = torch.randn(6, WIDTH), torch.randn(6, WIDTH) * 3
    gradients = []
    for wide in (chunked.WIDE, 10 * WIDTH):
        monkeypatch.setattr(chunked, "WIDE", wide)
        loss = SinkhornLoss(cost="lorentz", learnable_curvature=True)
        loss(student, teacher).backward()
        gradients.append([parameter.grad for parameter in loss.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("apart", [0.3, 1e-3])
def test_l1_is_right_for_rows_that_are_all_near(apart, monkeypatch):
    torch.manual_seed(0)
    student, teacher = (apart * torch.randn(2, 6, WIDTH) + torch.randn(WIDTH)).unbind()
    found, gradient = value_and_gradient(student, teacher, {"cost": "l1"})
    monkeypatch.setattr(chunked, "WIDE", 10 * WIDTH)
    expected, reference = value_and_gradient(student.double(), teacher.double(), {"cost": "l1"})
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert float((gradient - reference).norm() / reference.norm()) < 3e-3


def test_l1_holds_a_tenth_of_the_differences_of_all_pairs():
    student, teacher = torch.randn(64, 40_000, requires_grad=True), torch.randn(64, 40_000) * 3
    assert peak_bytes(lambda: SinkhornLoss(cost="l1")(student, teacher).backward()) < 64 * student.nbytes / 10


def test_equal_rows_have_no_gradient_towards_each_other():
    logits = torch.randn(1, WIDTH) * 3
    value, gradient = value_and_gradient(logits, logits, {"cost": "lorentz"})
    assert float(value) == 0 and float(gradient.abs().max()) == 0


@pytest.mark.parametrize(("width", "k"), [(5000, 50), (4999, 7), (97, 90), (4096, 1)])
def test_the_top_k_are_those_that_sorting_finds(width, k):
    torch.manual_seed(width)
    logits = torch.randn(9, width)
    assert torch.equal(top_k(logits, k), logits.topk(k).indices)


@pytest.mark.parametrize("of", ["both", "teacher"])
def test_folded_logits_are_folded_probabilities(of):
    torch.manual_seed(0)
    student, teacher = torch.randn(5, WIDTH) * 2, torch.randn(5, WIDTH) * 3
    p, q = (torch.softmax(side.double() / 2, -1) for side in (student, teacher))
    for found, expected in zip(fold_logits(student, teacher, 2.0, 10, of), fold(p, q, 10, of=of), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


def test_only_the_teachers_entries_are_kept_if_no_others_are_known():
    p, q = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.2, 0.2, 0.6]])
    assert fold(p, q, 1)[0].shape == (1, 3)
    torch.testing.assert_close(fold(p, q, 1, of="teacher"), (torch.tensor([[0.2, 0.8]]), torch.tensor([[0.6, 0.4]])))


@pytest.mark.parametrize("keywords", [{"cost": "lorentz"}, {"cost": "l1", "top_k": 20}], ids=["whole", "top 20"])
@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize(
    ("junk", "said"), [(torch.nan, "1 of 5 rows hold NaN"), (torch.inf, "1 of 5 rows hold NaN or [+]inf")]
)
def test_logits_that_cannot_be_used_are_counted(keywords, side, junk, said):
    sides = {"student": torch.randn(5, WIDTH), "teacher": torch.randn(5, WIDTH)}
    sides[side][2, 7] = junk
    for ask in (SinkhornLoss(**keywords), SinkhornLoss(**keywords).transport):
        with pytest.raises(SinkdError, match=f"{side} logits: {said}"):
            ask(sides["student"], sides["teacher"])
    sides[side][2] = -torch.inf
    with pytest.raises(SinkdError, match=f"{side} logits: 1 of 5 rows are -inf throughout"):
        SinkhornLoss(**keywords)(sides["student"], sides["teacher"])


def test_rows_are_never_copied_whole():
    """Peak memory beyond the gradient is far smaller than the rows."""
    student, teacher = torch.randn(64, 40_000, requires_grad=True), torch.randn(64, 40_000) * 3
    for keywords in ({"cost": "lorentz"}, {"cost": "l1", "top_k": 20}):
        loss = SinkhornLoss(**keywords)
        assert peak_bytes(lambda loss=loss: loss(student, teacher).backward()) < 2.5 * student.nbytes

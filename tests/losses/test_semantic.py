"""Transport between tokens: golden numbers, and what the vocabulary may change."""

import math

import pytest
import torch

import reference
from memory import peak_bytes
from sinkd import Objective, SinkdError
from sinkd.losses import chunked, semantic_transport
from sinkd.losses.term import View
from sinkd.losses.top_k_cache import kept_for

ROWS, WIDTH = 5, 40


def sides(width: int = WIDTH, dtype: torch.dtype = torch.float64, seed: int = 0):
    """Logits of student and teacher, and an embedding."""
    generator = torch.Generator().manual_seed(seed)
    teacher = 3 * torch.randn(ROWS, width, generator=generator, dtype=torch.float64)
    student = teacher + torch.randn(ROWS, width, generator=generator, dtype=torch.float64)
    embedding = torch.randn(width, 8, generator=generator, dtype=torch.float64)
    return student.to(dtype), teacher.to(dtype), embedding.to(dtype)


def value_and_gradient(student, *others, **options):
    student = student.clone().requires_grad_()
    value = semantic_transport(student, *others, **options)
    return value.detach(), torch.autograd.grad(value, student)[0]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-7), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", reference.golden("semantic.json"), ids=lambda case: f"epsilon-{case['epsilon']}")
def test_golden(case, dtype, bound):
    tensors = (torch.tensor(case[name], dtype=dtype) for name in ("student_logits", "teacher_logits", "embedding"))
    options = {"temperature": case["temperature"], "epsilon": case["epsilon"], "top_k": 12, "n_iters": 2000}
    value, gradient = value_and_gradient(*tensors, **options)
    assert value.dtype == dtype
    assert value.item() == pytest.approx(case["loss"], rel=bound)
    assert reference.relative_error(gradient, torch.tensor(case["grad"], dtype=torch.float64)) < bound


def test_the_gradient_is_that_of_the_value_with_a_rest_too():
    student, teacher, embedding = sides(9)

    def loss(logits):
        return semantic_transport(logits, teacher[:2], embedding, top_k=3, epsilon=0.5, n_iters=60)

    assert torch.autograd.gradcheck(loss, student[:2].requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n_iters", [1, 20])
def test_equal_predictions_have_no_loss_and_no_gradient(dtype, n_iters):
    student, _, embedding = sides(dtype=dtype)
    value, gradient = value_and_gradient(student, student, embedding, top_k=6, n_iters=n_iters)
    assert abs(value) < 1e-6 and gradient.abs().max() < 1e-6


def test_the_loss_grows_with_the_cost_of_the_token_that_mass_is_moved_to():
    """The teacher says token 0; the student tokens at growing angles from it."""
    angles = torch.linspace(0, math.pi, 7)
    embedding = torch.stack([angles.cos(), angles.sin()], -1)
    teacher, *students = 12 * torch.eye(7)
    costs = (1 - angles.cos())[1:].tolist()
    losses = [float(semantic_transport(s[None], teacher[None], embedding, 1.0, top_k=2, n_iters=100)) for s in students]
    assert losses == sorted(losses)
    assert losses == pytest.approx(costs, abs=0.05)


def test_a_permuted_vocabulary_and_impossible_tokens_change_nothing():
    student, teacher, embedding = sides()
    value, gradient = value_and_gradient(student, teacher, embedding, top_k=6)
    order = torch.randperm(WIDTH)
    permuted, other = value_and_gradient(student[:, order], teacher[:, order], embedding[order], top_k=6)
    torch.testing.assert_close(permuted, value)
    torch.testing.assert_close(other, gradient[:, order])
    more = [torch.cat([side, torch.full((ROWS, 3), -torch.inf)], -1) for side in (student, teacher)]
    appended, other = value_and_gradient(*more, torch.cat([embedding, embedding[:3]]), top_k=6)
    torch.testing.assert_close(appended, value)
    torch.testing.assert_close(other[:, :WIDTH], gradient)
    assert other[:, WIDTH:].abs().max() == 0


def test_tokens_without_an_embedding_cost_1_to_every_other():
    student, teacher, embedding = sides()
    axes = torch.cat([embedding.new_zeros(WIDTH, 1), embedding], -1)
    axes[[3, 7]] = 0
    found = value_and_gradient(student, teacher, axes, top_k=WIDTH)
    axes[3], axes[7] = 1e-9 * axes[4], -1e-9 * axes[4]
    torch.testing.assert_close(value_and_gradient(student, teacher, axes, top_k=WIDTH), found)
    orthogonal = torch.cat([axes, torch.zeros(WIDTH, 1)], -1)
    orthogonal[3], orthogonal[7] = 0, 0
    orthogonal[3, 0], orthogonal[7, -1] = 1, 1
    torch.testing.assert_close(value_and_gradient(student, teacher, orthogonal, top_k=WIDTH), found)


@pytest.mark.parametrize("epsilon", [1e-3, 1e-2, 0.05, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_logits_and_small_epsilon_give_finite_numbers(epsilon, dtype):
    student, teacher = 1e4 * (2 * torch.rand(2, 20, 200, generator=torch.Generator().manual_seed(0)) - 1)
    embedding = sides(200, torch.float32)[2]
    value, gradient = value_and_gradient(student.to(dtype), teacher.to(dtype), embedding, epsilon=epsilon, top_k=8)
    assert 0 < value < 2
    assert gradient.isfinite().all()


def test_slices_and_positions_of_sequences_are_rows(monkeypatch):
    student, teacher, embedding = sides()
    value, gradient = value_and_gradient(student, teacher, embedding, top_k=3)
    monkeypatch.setattr(chunked, "LIMIT", 1)
    folded = [side.view(1, ROWS, WIDTH) for side in (student, teacher)]
    torch.testing.assert_close(
        value_and_gradient(*folded, embedding, top_k=3), (value, gradient.view(1, ROWS, WIDTH)), rtol=1e-6, atol=1e-9
    )
    assert semantic_transport(student[:0], teacher[:0], embedding) == 0


def test_rows_are_never_copied_whole():
    student, teacher = torch.randn(32, 40_000, requires_grad=True), torch.randn(32, 40_000) * 3
    embedding = torch.randn(40_000, 8)
    assert peak_bytes(lambda: semantic_transport(student, teacher, embedding).backward()) < 1.7 * student.nbytes


def test_what_does_not_fit_is_refused():
    student, teacher, embedding = sides()
    with pytest.raises(SinkdError, match=r"embedding has shape \(39, 8\) .* row for each of the 40 tokens"):
        semantic_transport(student, teacher, embedding[1:])
    with pytest.raises(SinkdError, match="temperature is 0 and top_k 32"):
        semantic_transport(student, teacher, embedding, temperature=0)
    with pytest.raises(SinkdError, match="epsilon of semantic is 0; it must be above 0"):
        Objective.parse("semantic:1", semantic={"epsilon": 0})
    with pytest.raises(SinkdError, match=r"semantic measures costs .* give it to Objective\.embed"):
        Objective.parse("semantic:1")(View(student), View(teacher), {})
    with pytest.raises(SinkdError, match="--teacher_cache_top_k is 9; it must be at least --semantic_top_k, 10"):
        kept_for(Objective.parse("semantic:1", semantic={"top_k": 10}), 9)

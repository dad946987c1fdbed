"""A prediction restored from its top entries is off by at most the mass not kept, at every cached temperature."""

import pytest
import torch

from memory import peak_bytes
from sinkd import Objective, SinkdError, SinkhornLoss
from sinkd.losses import js, kd, kl, top_k_cache, tvd
from sinkd.losses.feature import LOGITS, Forward
from sinkd.losses.term import View
from sinkd.losses.top_k_cache import Rest, TopIds, TopLogs, TopView, kept_for


def peaked(rows: int, width: int, scale: float = 1.0) -> torch.Tensor:
    """Logits as a model's: few entries hold most of the mass (Zipf's law), in an order of each row's own."""
    fall = -1.5 * torch.arange(1, width + 1).float().log()
    order = torch.stack([torch.randperm(width) for _ in range(rows)])
    return scale * (fall[order] + 0.3 * torch.randn(rows, width)) + 5


def kept(logits, k, temperatures, dtype=torch.float32) -> TopView:
    """What a cache of this type holds of the logits."""
    seen = Forward(torch.nn.Identity(), {}, logits)
    features = [TopIds(k), TopLogs(k), *(Rest(k, temperature) for temperature in temperatures)]
    values = {feature: feature.read(seen, {}) for feature in features}
    for feature, value in values.items():
        assert value.isfinite().all()
        assert value.element_size() * value.shape[1] == feature.token_bytes(logits.shape[1], 4)
    values = {f: v.to(dtype).float() if v.is_floating_point() else v for f, v in values.items()}
    return TopView(View(features=values), k, logits.shape[1])


def softmax(logits, temperature):
    return torch.softmax(logits.double() / temperature, -1)


def not_kept(logits, view, temperature):
    """The softened mass of the entries that were not kept, a row."""
    ids = view[TopIds(view.k)].long()
    return 1 - softmax(logits, temperature).gather(-1, ids).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_at_each_cached_temperature_the_error_is_at_most_the_mass_not_kept(temperature):
    torch.manual_seed(0)
    logits = peaked(12, 32_128)
    view = kept(logits, 100, (0.5, 1.0, 2.0))
    true, back = softmax(logits, temperature), softmax(view.softened(temperature), temperature)
    rest, ids = not_kept(logits, view, temperature), view[TopIds(100)].long()
    torch.testing.assert_close(back.gather(-1, ids), true.gather(-1, ids), rtol=1e-5, atol=0)
    torch.testing.assert_close(1 - back.gather(-1, ids).sum(-1), rest, rtol=1e-5, atol=1e-6)
    variation = (back - true).abs().sum(-1) / 2
    assert (variation <= rest + 2e-6).all()
    assert (variation > rest / 10).all()


def test_a_cache_for_one_temperature_is_wrong_at_another():
    """Why the rest is stored per temperature: spread evenly at 1, it is too large at 2."""
    torch.manual_seed(0)
    logits = peaked(12, 32_128)
    view = kept(logits, 100, (1.0, 2.0))
    true = softmax(logits, 2.0)
    variation = {t: float((softmax(view.softened(t), 2.0) - true).abs().sum(-1).mean() / 2) for t in (1.0, 2.0)}
    rest = not_kept(logits, view, 2.0)
    assert variation[2.0] < float(rest.mean()) < 1
    ids = view[TopIds(100)].long()
    off = softmax(view.softened(1.0), 2.0).gather(-1, ids) / true.gather(-1, ids)
    assert (off < 0.95).all() or (off > 1.05).all()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_bfloat16_adds_its_rounding_of_the_largest_logarithm(temperature):
    torch.manual_seed(0)
    logits = peaked(12, 5_000)
    whole, half = (kept(logits, 50, (temperature,), dtype) for dtype in (torch.float32, torch.bfloat16))
    largest = torch.maximum(
        whole[TopLogs(50)].abs().amax(-1) / temperature, whole[Rest(50, temperature)].abs().amax(-1)
    )
    true, back = (softmax(side, temperature) for side in (logits, half.softened(temperature)))
    variation = (back - true).abs().sum(-1) / 2
    assert (variation <= not_kept(logits, whole, temperature) + largest * 2**-8).all()
    assert not torch.equal(back, softmax(whole.softened(temperature), temperature))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_losses_and_gradients_are_off_by_no_more_than_the_bound(temperature):
    torch.manual_seed(0)
    student, teacher = peaked(12, 5_000), peaked(12, 5_000)
    view = kept(teacher, 50, (temperature,))
    rest = not_kept(teacher, view, temperature)
    log_p = torch.log_softmax(student.double() / temperature, -1)
    spread = log_p.amax(-1) - log_p.amin(-1)
    bounds = {tvd: rest.mean(), kd: (rest * spread).mean()}
    for loss, bound in bounds.items():
        values = [float(loss(student, side, temperature)) for side in (teacher, view.softened(temperature))]
        assert 0 < abs(values[0] - values[1]) <= float(bound) + 1e-6
    for loss in (kd, kl):
        rows = student.clone().requires_grad_()
        live, read = (
            torch.autograd.grad(loss(rows, side, temperature) * len(rows), rows)[0]
            for side in (teacher, view.softened(temperature))
        )
        off = (live - read).abs().sum(-1)
        assert (off <= 2 * rest / temperature + 1e-5).all() and (off > 0).all()


def test_caching_top_entries_does_not_write_out_logits():
    seen = Forward(torch.nn.Identity(), {}, torch.randn(64, 40_000))
    for feature in (TopIds(10), TopLogs(10), Rest(10, 2.0)):
        assert peak_bytes(lambda feature=feature: feature.read(seen, {})) < 0.6 * seen.logits.nbytes


def test_all_entries_are_the_prediction_itself():
    torch.manual_seed(0)
    logits = torch.randn(12, 30) * 3
    for k in (30, 99):
        view = kept(logits, k, (1.0, 2.0))
        for temperature in (1.0, 2.0):
            torch.testing.assert_close(softmax(view.softened(temperature), temperature), softmax(logits, temperature))


def test_a_teacher_that_is_sure_leaves_nothing():
    logits = torch.zeros(12, 30)
    logits[:, 3] = 2e4
    view = kept(logits, 2, (1.0,), torch.float16)
    torch.testing.assert_close(softmax(view.softened(1.0), 1.0), softmax(logits, 1.0))


def test_terms_read_the_prediction_at_their_own_temperature():
    torch.manual_seed(0)
    student, teacher = peaked(12, 300), peaked(12, 300)
    view = kept(teacher, 40, (1.0, 2.0))
    objective = Objective.parse("kl:1+js:1+sinkhorn:1", temperature=1.0, sinkhorn={"temperature": 2.0, "weight": 1.0})
    parts = objective(View(student), view, {}).parts
    torch.testing.assert_close(parts["kl"], kl(student, view.softened(1.0), 1.0))
    torch.testing.assert_close(parts["js"], js(student, view.softened(1.0), 1.0))
    transport = SinkhornLoss(temperature=2.0, reduction="sum")
    torch.testing.assert_close(parts["sinkhorn"], transport(student, view.softened(2.0)))


def test_a_rest_is_kept_for_every_temperature():
    objective = Objective.parse("ce:1+kl:0.1+sinkhorn:1", temperature=1.0, sinkhorn={"temperature": 2.0})
    names = sorted(feature.name for feature in kept_for(objective, 9))
    assert names == ["top-9-ids", "top-9-log-probabilities", "top-9-rest-1", "top-9-rest-2"]
    assert not kept_for(Objective.parse("ce:1"), 9)


@pytest.mark.parametrize(
    ("text", "options", "named"),
    [
        ("kd_anneal:1", {}, "kd_anneal"),
        ("ce:1+reverse_kl:1", {}, "reverse_kl"),
        ("kl:1+sinkhorn:1", {"sinkhorn": {"representation": "log_odds"}}, "sinkhorn"),
    ],
)
def test_terms_that_need_more_are_refused(text, options, named):
    with pytest.raises(SinkdError, match=f"--teacher_cache_top_k keeps .* and {named} needs more than that"):
        kept_for(Objective.parse(text, **options), 9)


def test_a_term_that_does_not_say_how_it_reads_predictions_is_refused():
    from sinkd.losses.term import Term

    class Mine(Term):
        pass

    assert Mine.teacher_needs == {LOGITS}
    with pytest.raises(SinkdError, match="mine needs more than that"):
        kept_for([Mine("mine")], 9)


def test_the_top_entries_are_searched_once_a_forward_pass(monkeypatch):
    calls = []
    search = top_k_cache.top_k
    monkeypatch.setattr(top_k_cache, "top_k", lambda logits, k: calls.append(k) or search(logits, k))
    kept(peaked(3, 50), 5, (1.0, 2.0))
    assert calls == [5]

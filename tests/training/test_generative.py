"""A language model trains only on the answer tokens, with any padding, order or cache."""

import math
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, Features, List, Value
from torch.nn import functional as F

from sinkd import DistillationArguments, DistillationTrainer, Objective, SinkdError
from sinkd.losses.chunked import WIDE
from sinkd.losses.feature import LOGITS
from sinkd.losses.term import RowTerm, View
from sinkd.models import LanguageModel, decoder_start
from sinkd.models.likelihood import indices
from sinkd.models.prompt_collator import PromptCollator
from sinkd.models.sampling import sampled_batch
from small_language_models import KINDS, small_model, word_tokenizer

VOCABULARY = len(word_tokenizer())
PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15], [16]]
ANSWERS = [[20, 1], [21, 22, 23, 1], [24, 1], [25, 26, 1]]
PUBLISHED = {"sinkhorn": {"weight": 0.0008}}


def batch_for(model, side: str = "right", pad_to: int = 0):
    collator = PromptCollator(word_tokenizer(side), decoder_start(model.config), pad_to)
    return collator.assemble(PROMPTS, ANSWERS)


def value(student, teacher, batch, text="ce:1+kl:0.1+sinkhorn:1", options=PUBLISHED, **objective):
    """The objective's value, and its gradient at the student's embedding."""
    student.zero_grad()
    with torch.no_grad():
        taught = LanguageModel().observe(teacher, batch, {LOGITS})
    loss = Objective.parse(text, sinkhorn=options["sinkhorn"], **objective)(
        LanguageModel().observe(student, batch, {LOGITS}), taught, batch
    )
    loss.total.backward()
    return loss.total.detach(), student.get_input_embeddings().weight.grad.clone()


@pytest.fixture(scope="module", params=KINDS)
def pair(request):
    return small_model(request.param, VOCABULARY, seed=1, layers=1), small_model(request.param, VOCABULARY, seed=2)


def written_out_logits(model, prompt, answer):
    """(len(answer), V), float64, one row alone, no padding."""
    start = decoder_start(model.config)
    if start is not None:
        inputs = {"input_ids": torch.tensor([prompt]), "decoder_input_ids": torch.tensor([[start, *answer[:-1]]])}
        return model(**inputs).logits[0].double()
    return model(input_ids=torch.tensor([[*prompt, *answer[:-1]]])).logits[0, len(prompt) - 1 :].double()


def lifted(p):
    """Points of the hyperboloid of curvature -1, time first."""
    r = p.norm(dim=-1, keepdim=True)
    return torch.cat([r.cosh(), r.sinh() / r * p], -1)


def ground_cost(p, q, cost):
    if cost == "l1":
        return torch.cdist(p, q, p=1)
    x, y = lifted(p), lifted(q)
    return torch.acosh(x[:, :1] * y[:, 0] - x[:, 1:] @ y[:, 1:].T)


@pytest.mark.parametrize("cost", ["l1", "lorentz"])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_the_loss_is_the_published_formula_over_the_answer_tokens(pair, side, cost):
    is_the_published_formula(*pair, side, cost)


@pytest.mark.parametrize("cost", ["l1", "lorentz"])
@pytest.mark.parametrize("kind", ["mt5", "qwen2"])
@torch.no_grad()
def test_the_loss_of_a_vocabulary_that_is_read_in_slices_is_the_formula_too(kind, cost):
    is_the_published_formula(*(small_model(kind, WIDE + 9, seed=seed, layers=1) for seed in (1, 2)), "right", cost)


def is_the_published_formula(student, teacher, side, cost):
    zs, zt = (
        torch.cat([written_out_logits(model, p, a) for p, a in zip(PROMPTS, ANSWERS, strict=True)])
        for model in (student, teacher)
    )
    labels = torch.tensor([token for answer in ANSWERS for token in answer])
    kl = (torch.softmax(zt, -1) * (torch.log_softmax(zt, -1) - torch.log_softmax(zs, -1))).sum(-1).mean()
    w = ground_cost(torch.softmax(zs / 2, -1), torch.softmax(zt / 2, -1), cost)
    plan = torch.exp(-w / 0.1)
    for _ in range(20):
        plan = plan / plan.sum(1, keepdim=True)
        plan = plan / plan.sum(0, keepdim=True)
    expected = F.cross_entropy(zs, labels) + 0.1 * kl + 0.0008 * (plan * w).sum()
    batch = batch_for(student, side)
    objective = Objective.parse("ce:1+kl:0.1+sinkhorn:1", temperature=1, sinkhorn={"weight": 0.0008, "cost": cost})
    found = objective(
        LanguageModel().observe(student, batch, {LOGITS}), LanguageModel().observe(teacher, batch, {LOGITS}), batch
    ).total
    assert float(found) == pytest.approx(float(expected), rel=2e-5)


def test_padding_on_either_side_and_more_of_it_changes_nothing(pair):
    reference, gradient = value(*pair, batch_for(pair[0]))
    for batch in (batch_for(pair[0], "left"), batch_for(pair[0], pad_to=17), batch_for(pair[0], "left", 17)):
        found, other = value(*pair, batch)
        torch.testing.assert_close(found, reference, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(other, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"group": "sequence"}, {"top_k": 5}, {"top_k": 5, "group": "sequence", "cost": "l1"}]
)
@pytest.mark.parametrize("width", [40, WIDE + 9])
def test_permuting_the_vocabulary_changes_nothing(options, width):
    torch.manual_seed(0)
    zs, zt = torch.randn(11, width), torch.randn(11, width) * 3
    labels, counts = torch.randint(width, (11,)), torch.tensor([2, 4, 2, 3])
    order = torch.randperm(width)
    batch, permuted = {"labels": labels}, {"labels": torch.argsort(order)[labels]}
    objective = Objective.parse("ce:1+kl:0.1+sinkhorn:1", sinkhorn={"weight": 1.0, **options})
    values = [
        objective(views[0], views[1], one).total
        for one, views in (
            (batch, (View(zs, counts=counts), View(zt, counts=counts))),
            (permuted, (View(zs[:, order], counts=counts), View(zt[:, order], counts=counts))),
        )
    ]
    torch.testing.assert_close(*values, rtol=1e-5, atol=0)


def test_groups_of_sequences_are_transported_one_by_one():
    torch.manual_seed(0)
    zs, zt, counts = torch.randn(7, 9), torch.randn(7, 9), [2, 4, 1]
    term = next(iter(Objective.parse("sinkhorn:1", sinkhorn={"weight": 1.0, "group": "sequence", "reduction": "mean"})))
    batch = {"labels": torch.zeros(7, dtype=torch.int64)}
    student, teacher = View(zs, counts=torch.tensor(counts)), View(zt, counts=torch.tensor(counts))
    whole = term(student, teacher, batch, None)
    alone = [term.loss(a, b) for a, b in zip(zs.split(counts), zt.split(counts), strict=True)]
    torch.testing.assert_close(whole, torch.stack(alone).mean())
    assert isinstance(term, RowTerm) and int(term.count(teacher, batch)) == 3
    # and so is the figure for the log
    term.loss.n_iters = 2
    errors = [
        float(term.loss.transport(a, b).marginal_error())
        for a, b in zip(zs.split(counts), zt.split(counts), strict=True)
    ]
    assert term.diagnostics(student, teacher)["marginal_error"] == pytest.approx(sum(errors) / 3)
    assert float(term.loss.transport(zs, zt).marginal_error()) != pytest.approx(sum(errors) / 3)


def test_no_logits_of_the_prompt_are_made(pair):
    student, _ = pair
    widths = []
    hook = student.get_output_embeddings().register_forward_hook(lambda m, args, out: widths.append(out.shape[1]))
    batch = batch_for(student, "left")
    LanguageModel().observe(student, batch, {LOGITS})
    hook.remove()
    assert widths == [max(map(len, ANSWERS))]


# The teacher's cache


def rows_of(kind: str) -> Dataset:
    ids = List(Value("int32"))
    types = Features({"input_ids": ids, "answer_ids": ids, "length": Value("int32")})
    lengths = [len(p) + len(a) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    columns = {"input_ids": PROMPTS * 2, "answer_ids": ANSWERS * 2, "length": lengths * 2}
    return Dataset.from_dict(columns, features=types)


def trained(pair, folder, name, **settings):
    """The losses of three updates, from the same start."""
    student, teacher = (
        small_model(m.config.model_type, VOCABULARY, seed=s, layers=n)
        for m, s, n in zip(pair, (1, 2), (1, 2), strict=True)
    )
    defaults = {"per_gpu_batch_size": 4, "max_steps": 3, "logging_steps": 1, "learning_rate": 1e-3, "report_to": []}
    defaults |= {"eval_strategy": "no", "save_strategy": "no", "disable_tqdm": True, "sinkhorn_weight": 0.01}
    defaults |= {"distill_loss": "ce:1+kl:1+sinkhorn:1", "teacher_cache_dir": str(folder / "cache")}
    args = DistillationArguments(output_dir=str(folder / name), **defaults | settings)
    family = LanguageModel(word_tokenizer(), config=student.config)
    trainer = DistillationTrainer(
        model=student,
        teacher=teacher,
        objective=args.distill_loss,
        args=args,
        train_dataset=rows_of(student.config.model_type),
        family=family,
        data_collator=family.collator,
        processing_class=family.tokenizer,
    )
    trainer.train()
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


@pytest.fixture(scope="module", params=["t5", "gpt2"])
def two(request):
    return small_model(request.param, VOCABULARY, seed=1, layers=1), small_model(request.param, VOCABULARY, seed=2)


def test_a_cached_run_is_a_live_run(two, tmp_path, caplog):
    live = trained(two, tmp_path, "live", teacher_cache="off")
    with caplog.at_level("INFO", logger="sinkd"):
        cached = trained(two, tmp_path, "cached")
        again = trained(two, tmp_path, "again")
    assert cached == again == pytest.approx(live, rel=1e-5)
    size = 8 * sum(map(len, ANSWERS)) // 4 * VOCABULARY
    said = [message for message in caplog.messages if "the teacher's answers for 8 rows take" in message]
    assert len(said) == 1 and f"{size / 1e6:.1f} MB" in said[0]
    halves = trained(two, tmp_path, "halves", teacher_cache_dtype="bfloat16")
    # logits within 2^-9 of themselves; here they are below 30
    assert halves == pytest.approx(live, abs=30 * 2**-9)
    assert halves != cached


def test_a_cache_of_all_entries_by_likelihood_is_a_live_run(two, tmp_path):
    live = trained(two, tmp_path, "live", teacher_cache="off")
    whole = trained(two, tmp_path, "whole", teacher_cache_top_k=VOCABULARY)
    assert whole == pytest.approx(live, rel=1e-4)
    parts = {"gradient_accumulation_steps": 2, "per_gpu_batch_size": 2}  # a window gathers what is restored
    assert trained(two, tmp_path, "parts", teacher_cache_top_k=VOCABULARY, **parts) == pytest.approx(
        trained(two, tmp_path, "live-parts", teacher_cache="off", **parts), rel=1e-4
    )


def test_a_likelier_cache_is_smaller(two, tmp_path):
    trained(two, tmp_path, "few", teacher_cache_top_k=4, sinkhorn_top_k=4)
    bytes_kept = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("values.npy"))
    assert bytes_kept < 2 * sum(map(len, ANSWERS)) * (4 * 4 + 4 * 5) + 1000


@torch.no_grad()
def left_out(model, k, temperature):
    """The softened mass outside the k most probable entries, averaged over the answer tokens of `rows_of`."""
    logits = torch.cat([written_out_logits(model, p, a) for p, a in zip(PROMPTS, ANSWERS, strict=True)])
    return 1 - float(torch.softmax(logits / temperature, -1).topk(k).values.sum(-1).mean())


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_top_k_cache_matches_a_live_run_up_to_the_mass_it_leaves_out(two, tmp_path, temperature):
    """The bound of the docs, on the first update's total variation; and the published sum follows a live run."""
    bound, some = left_out(two[1], 200, temperature), {"temperature": temperature, "teacher_cache_top_k": 200}
    one = {"distill_loss": "ce:1+tvd:1", "per_gpu_batch_size": 8, "max_steps": 1}
    live, kept = (
        trained(two, tmp_path, f"tvd-{n}", **one, **settings)[0]
        for n, settings in enumerate(({"temperature": temperature, "teacher_cache": "off"}, some))
    )
    assert 1e-5 < abs(live - kept) <= bound < 0.5
    live = trained(two, tmp_path, "live", temperature=temperature, teacher_cache="off")
    kept = trained(two, tmp_path, "kept", **some)
    assert kept != live
    assert kept == pytest.approx(live, rel=bound / 5)


def test_semantic_transport_trains_from_a_cache_as_live(two, tmp_path):
    def losses(name, **settings):
        return trained(two, tmp_path, name, distill_loss="kl:1+semantic:5", semantic_top_k=20, **settings)

    live = losses("live", teacher_cache="off")
    assert losses("cached") == pytest.approx(live, rel=1e-5)
    assert losses("top", teacher_cache_top_k=VOCABULARY) == pytest.approx(live, rel=1e-4)
    parts = {"gradient_accumulation_steps": 4, "per_gpu_batch_size": 1}
    assert losses("parts", **parts) == pytest.approx(live, rel=1e-4)
    assert all(map(math.isfinite, losses("policy", on_policy=0.5, bf16=True)))


def test_objectives_that_share_a_cache_add_what_they_lack(two, tmp_path):
    for temperature in (1.0, 1.5):
        trained(two, tmp_path, f"t{temperature}", temperature=temperature, teacher_cache_top_k=4)
    kept = {path.name for path in (tmp_path / "cache").glob("*/*.float32")}
    assert kept == {f"top-4-{what}.float32" for what in ("ids", "log-probabilities", "rest-1", "rest-1.5", "rest-2")}


def test_terms_that_a_top_k_cache_cannot_serve_are_refused(two, tmp_path):
    with pytest.raises(SinkdError, match="kd_anneal needs more than that; leave the flag out"):
        trained(two, tmp_path, "anneal", distill_loss="kd_anneal", teacher_cache_top_k=4)
    with pytest.raises(SinkdError, match="reverse_kl needs more than that"):
        DistillationArguments(output_dir="o", teacher_cache_top_k=4).parse_objective("reverse_kl")


# The student's own answers


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
def test_own_answers_are_drawn_from_the_student_and_have_no_labels(kind):
    model = small_model(kind, VOCABULARY + 30)
    collator = PromptCollator(word_tokenizer(), decoder_start(model.config))
    batch = collator.assemble(PROMPTS, ANSWERS)
    state = torch.get_rng_state()
    one, again, other = (sampled_batch(model, batch, collator, 1, VOCABULARY, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    inputs = "decoder_input_ids" if kind == "t5" else "input_ids"
    assert torch.equal(one[inputs], again[inputs])
    assert one[inputs].shape != other[inputs].shape or not torch.equal(one[inputs], other[inputs])
    assert (one["labels"] == -100).all() and len(one["labels"]) == int(one["counts"].sum())
    assert int(one["counts"].max()) <= 4
    assert int(one[inputs].max()) < VOCABULARY
    assert collator.prompts_of(one) == PROMPTS


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
def test_own_answers_follow_the_students_distribution_for_any_generation_config(kind):
    model = small_model(kind, VOCABULARY)
    collator = PromptCollator(word_tokenizer(), decoder_start(model.config))
    count = 4000
    batch = collator.assemble([[5, 6, 7]] * count, [[20]] * count)
    plain = sampled_batch(model, batch, collator, 1, VOCABULARY, 3)
    own = model.generation_config
    for name, setting in {"temperature": 0.2, "top_p": 0.3, "top_k": 2, "repetition_penalty": 3.0, "min_p": 0.2,
                          "typical_p": 0.3, "no_repeat_ngram_size": 1, "bad_words_ids": [[9]]}.items():  # fmt: skip
        setattr(own, name, setting)
    # a decoder reads all of an answer but its last token, so answers of two tell the first
    batch = collator.assemble([[5, 6, 7]] * count, [[20, 21]] * count)
    drawn = sampled_batch(model, batch, collator, 1, VOCABULARY, 3)
    assert model.generation_config is own and not model.training
    place = drawn["decoder_input_ids"][:, 1] if kind == "t5" else drawn["input_ids"][:, 3]
    tokens = torch.where(drawn["counts"] > 1, place, 1)  # which ends an answer
    probabilities = torch.softmax(written_out_logits(model, [5, 6, 7], [20])[0], -1)
    found = torch.bincount(tokens, minlength=VOCABULARY) / count
    deviation = (probabilities * (1 - probabilities) / count).sqrt()
    assert ((found - probabilities).abs() < 5 * deviation + 2 / count).all()
    assert int(plain["counts"].max()) == 1


def test_indices_of_a_spread_model_are_on_the_cpu():
    numbers = SimpleNamespace(cpu=lambda: "on the CPU")
    assert indices(SimpleNamespace(hf_device_map={"": 0}), numbers) == "on the CPU"
    assert indices(SimpleNamespace(module=SimpleNamespace(hf_device_map={"": 0})), numbers) == "on the CPU"
    assert indices(SimpleNamespace(), numbers) is numbers


def test_on_policy_has_the_live_teacher_score_them(two, tmp_path):
    losses = [trained(two, tmp_path, f"policy-{share}", on_policy=share) for share in (0.0, 1.0, 1.0)]
    assert losses[1] == losses[2] != losses[0]
    assert all(map(math.isfinite, losses[1]))
    # half of the batches are read from a cache, of the top entries too, and half are scored live
    mixed = trained(two, tmp_path, "mixed", on_policy=0.5)
    assert losses[0] != mixed != losses[1]
    assert trained(two, tmp_path, "few", on_policy=0.5, teacher_cache_top_k=VOCABULARY) == pytest.approx(
        mixed, rel=1e-4
    )


def test_on_policy_is_a_share():
    with pytest.raises(SinkdError, match=r"--on_policy is 1.5; it must be from 0 \(never\) to 1 \(always\)"):
        DistillationArguments(output_dir="o", on_policy=1.5)


def test_the_cache_must_contain_the_transported_entries():
    with pytest.raises(SinkdError, match=r"--teacher_cache_top_k is 5; it must be at least --sinkhorn_top_k, 10"):
        DistillationArguments(output_dir="o", teacher_cache_top_k=5, sinkhorn_top_k=10)


# Layers and attributions


@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_hidden_states_of_decoders_are_compared_from_the_cache_as_live(kind, tmp_path):
    pair = small_model(kind, VOCABULARY), small_model(kind, VOCABULARY)
    plain = trained(pair, tmp_path, "plain", distill_loss="kl")
    for text in ("kl+sinkhorn_hidden", "kl+mgskd"):
        cached, live = (
            trained(pair, tmp_path, text + cache, distill_loss=text, teacher_cache=cache, mgskd_heads=4)
            for cache in ("auto", "off")
        )
        assert cached == pytest.approx(live, rel=1e-5)
        assert abs(cached[0] - plain[0]) > 1e-4


@pytest.mark.parametrize("text", ["kl+sinkhorn_hidden", "kl+mgskd"])
def test_an_encoder_decoder_has_two_stacks_of_layers(text, tmp_path):
    pair = small_model("t5", VOCABULARY), small_model("t5", VOCABULARY)
    with pytest.raises(
        SinkdError, match="a t5 has two stacks of layers; hidden states are compared where there is one"
    ):
        trained(pair, tmp_path, "t5", distill_loss=text)


def test_attributions_are_for_encoders(two, tmp_path):
    with pytest.raises(SinkdError, match="saliency is for encoders, and this task is answered by a language model"):
        trained(two, tmp_path, "saliency", distill_loss="kl+saliency")

"""An update's loss does not depend on how its rows are split into micro-batches and processes."""

import json
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sinkd.errors import SharedError
from sinkd.losses.feature import LOGITS, Stack
from sinkd.losses.labels import hard_label_loss
from sinkd.losses.objective import Objective
from sinkd.losses.term import View
from sinkd.models import Encoder, LanguageModel, decoder_start
from sinkd.models.forward import observe
from sinkd.models.prompt_collator import PromptCollator
from sinkd.tasks import Collator, encode, load_task
from sinkd.training.gradient_cache import GradientCache
from sinkd.training.sampler import UpdateBatches, row_order
from small_language_models import small_model, word_tokenizer
from training import cuts, decoder_cuts, sharded

HERE = Path(__file__).resolve().parent
# A weight that exposes a wrong cut, SGD (since Adam would divide rounding errors by themselves), clipping on.
SETTINGS = ["--distill_loss", "ce:0.3+kd:0.7+sinkhorn:1", "--sinkhorn_weight", 1, "--sinkhorn_reduction", "mean"]
SETTINGS += ["--config_overrides", "hidden_dropout_prob=0,attention_probs_dropout_prob=0", "--optim", "sgd"]
SETTINGS += ["--learning_rate", 0.06, "--max_steps", 10, "--max_grad_norm", 0.5, "--logging_steps", 1]
BOUND = 1e-5


def torchrun(flags, *program):
    """Run a program under torchrun, or under several agents at once: a list of lists of flags."""
    agents = flags if isinstance(flags[0], list) else [flags]
    commands = [[sys.executable, "-m", "torch.distributed.run", *agent, *program] for agent in agents]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    started = [subprocess.Popen([str(part) for part in command], **output) for command in commands]
    for process in started:
        printed, _ = process.communicate(timeout=200)
        assert process.returncode == 0, printed


@pytest.fixture(scope="module")
def models(world, taught, tmp_path_factory):
    """Flags for a teacher and a student that tell rows apart: models with small weights answer all of them alike."""
    folder = tmp_path_factory.mktemp("models")
    for name, path in (("teacher", taught), ("student", world.student)):
        model = AutoModelForSequenceClassification.from_pretrained(path)
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=2 * parameter.shape[-1] ** -0.5)
        model.save_pretrained(folder / name)
        AutoTokenizer.from_pretrained(taught).save_pretrained(folder / name)
    return ["--teacher_path", folder / "teacher", "--student_path", folder / "student"]


@pytest.fixture
def job(world, models, tmp_path):
    """A cut of 32 rows an update, for `cuts.py`: (rows, micro-batches, flags) -> output and flags."""

    def job(rows, micro_batches, *more):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}-{rows}-{micro_batches}"
        out.touch()
        size = ["--per_gpu_batch_size", rows, "--gradient_accumulation_steps", micro_batches]
        return [str(out), *world.flags(f"{out}.run", *models, *size, *SETTINGS, *more)]

    return job


@pytest.fixture
def cut(job):
    """Train with a cut in this process: (rows, micro-batches, flags) -> what `cuts.py` keeps."""

    def cut(rows, micro_batches, *more):
        made = job(rows, micro_batches, *more)
        cuts.run(*made)
        return torch.load(made[0])

    return cut


@pytest.fixture
def cuts_by_two(job, tmp_path):
    """The same for a list of cuts, by one pair of processes: starting a pair takes longer than ten updates."""

    def cuts_by_two(every):
        jobs = [job(*each) for each in every]
        listed = tmp_path / "jobs.json"
        listed.write_text(json.dumps(jobs))
        torchrun(["--standalone", "--nproc_per_node", 2], HERE / "cuts.py", listed)
        return [torch.load(made[0]) for made in jobs]

    return cuts_by_two


def differences(found, expected):
    """Of a cut and the whole, relative: of the first loss, and the norms of the differences of the vectors.

    The first gradient and the displacement of the model, and of the objective's own parameters where there are any.
    """
    loss, whole = found["losses"][0]["loss"], expected["losses"][0]["loss"]
    assert found.keys() == expected.keys()
    pairs = {name: (found[name], expected[name]) for name in expected if name != "losses"}
    apart = {name: ((a - b).norm() / b.norm()).item() for name, (a, b) in pairs.items() if len(b)}
    return {"loss": abs(loss - whole) / abs(whole), **apart}


def distance(found, expected):
    """How far a cut is from the whole: the largest of `differences`."""
    return max(differences(found, expected).values())


def is_far(found, expected):
    """Is every one of the `differences` far outside the bound?"""
    return min(differences(found, expected).values()) > 10 * BOUND


# Terms with their own trained parameters: a curvature, and the scale of log-odds (on which of two classes the
# curvature has no influence: their points lie on a line).
CURVATURE = ["--sinkhorn_value", "matching", "--learnable_curvature", "--curvature_lr", 5]
SCALE = [*CURVATURE, "--representation", "log_odds"]


@pytest.mark.parametrize("cost", ["l1", "lorentz"])
@pytest.mark.parametrize("rows", [150, 129])
def test_micro_batches_give_the_loss_of_the_whole(cut, cost, rows):
    # Five updates an epoch: the last has 22 rows, or a single one.
    more = ["--sinkhorn_cost", cost, "--max_train_rows", rows]
    whole = cut(32, 1, *more)
    assert distance(cut(8, 4, *more), whole) < BOUND
    assert is_far(cut(12, 3, *more), whole), "36 rows an update are another training"
    assert is_far(cut(8, 4, *more, "--transport_scope", "micro"), whole)


@pytest.mark.parametrize("own", [CURVATURE, SCALE], ids=["curvature", "scale"])
def test_parameters_of_the_objective_do_not_see_the_cut(cut, own):
    whole, parts = cut(32, 1, *own), cut(16, 2, *own)
    assert distance(parts, whole) < BOUND
    assert whole["moved_own"].norm() > 1e-3
    curvatures = [log["sinkhorn/curvature"] for log in whole["losses"]]
    assert [log["sinkhorn/curvature"] for log in parts["losses"]] == pytest.approx(curvatures, rel=1e-5)
    assert (abs(curvatures[-1] - curvatures[0]) > 1e-3) == (own is CURVATURE)


def test_bfloat16_and_clipping_do_not_see_the_cut(cut):
    # What bfloat16 rounds depends on a batch's shape, so the bound is another one; float32 is 0.01 away.
    whole, parts, micro = (
        cut(rows, n, "--bf16", "--use_cpu", "--transport_scope", scope)
        for rows, n, scope in ((32, 1, "window"), (8, 4, "window"), (8, 4, "micro"))
    )
    assert whole["gradient"].norm() > 0.5, "clipping has something to do"
    assert differences(parts, whole)["gradient"] < 0.005
    assert differences(micro, whole)["gradient"] > 0.03


def test_cuts_do_not_change_an_update_with_unlabelled_rows(cut, tmp_path):
    # Hard labels average over the labelled rows of an update, and micro-batches hold different numbers of them.
    text = tmp_path / "more.txt"
    text.write_text("".join(f"the dog sees {n} cats\n" for n in range(70)))
    more = ["--unlabeled_file", text]
    assert distance(cut(8, 4, *more), cut(32, 1, *more)) < BOUND


@pytest.mark.parametrize("value", ["loss", "parts/ce", "parts/kd", "parts/sinkhorn"])
def test_the_log_shows_the_loss_of_the_whole(cut, value):
    whole, parts = cut(32, 1), cut(8, 4)
    logged = [[log[value] for log in run["losses"]] for run in (whole, parts)]
    assert logged[1] == pytest.approx(logged[0], rel=1e-4)


PLACES = [range(8), range(8, 14), range(14, 22), range(22, 25)]


@pytest.fixture
def micro_batches(world, taught):
    """Four micro-batches of different size."""
    tokenizer = AutoTokenizer.from_pretrained(taught)
    rows = encode(load_task("cola", world.data).read("train"), tokenizer, 32)
    collator = Collator(tokenizer)
    return [collator([rows[i] for i in places]) for places in PLACES]


def answer_batches(model):
    """The same of prompts and answers."""
    rows = decoder_cuts.rows_of(25)
    collator = PromptCollator(word_tokenizer(), decoder_start(model.config))
    return [collator([rows[i] for i in places]) for places in PLACES]


@pytest.mark.parametrize("cost", ["l1", "lorentz"])
@pytest.mark.parametrize("kind", ["bert", "t5", "gpt2"])
def test_with_dropout_two_passes_are_one_graph(world, models, micro_batches, kind, cost):
    if kind == "bert":
        load = AutoModelForSequenceClassification.from_pretrained
        teacher, student = load(models[1]), load(models[3])
    else:
        teacher, student = (small_model(kind, len(word_tokenizer()), seed=seed, layers=1) for seed in (2, 1))
        micro_batches = answer_batches(student)
    observe = (Encoder if kind == "bert" else LanguageModel)().observe
    teacher.eval(), student.train()
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    options = {"weight": 1.0, "reduction": "mean", "cost": cost}
    objective = Objective.parse("ce:0.02+kl:0.1+sinkhorn:1", sinkhorn=options)

    def gradient():
        return torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])

    torch.manual_seed(0)
    cache = GradientCache(
        objective, micro_batches, partial(observe, student), partial(observe, teacher, features=[LOGITS])
    )
    totals = []
    for _ in micro_batches:
        total = cache.step()[0].total
        (total / 4).backward()
        totals.append(total.item())
    after, found = torch.rand(1), gradient()

    torch.manual_seed(0)
    student.zero_grad()
    logits = torch.cat([observe(student, batch, [LOGITS]).logits for batch in micro_batches])
    assert torch.equal(after, torch.rand(1)), "the random state goes on as if each row had been seen once"
    with torch.no_grad():
        answers = torch.cat([observe(teacher, batch, [LOGITS]).logits for batch in micro_batches])
        still = torch.cat([observe(student.eval(), batch, [LOGITS]).logits for batch in micro_batches])
    assert (still - logits).norm() > 0.1 * still.norm(), "nothing was dropped"
    labels = torch.cat([batch["labels"] for batch in micro_batches])
    whole = objective(View(logits), View(answers), {"labels": labels}).total
    whole.backward()
    assert np.mean(totals) == pytest.approx(whole.item(), rel=BOUND)
    assert (found - gradient()).norm() < BOUND * gradient().norm()


@pytest.mark.parametrize("objective", ["kd+sinkhorn+integrated_saliency", "kd+sinkhorn_hidden+saliency+mgskd"])
def test_a_live_teacher_is_asked_once_and_attributions_are_not_looked_at_ahead(world, taught, micro_batches, objective):
    student = AutoModelForSequenceClassification.from_pretrained(
        world.student, hidden_dropout_prob=0.3, attn_implementation="eager"
    ).train()
    teacher = AutoModelForSequenceClassification.from_pretrained(taught).eval().requires_grad_(False)
    parsed = Objective.parse(objective, integrated_saliency={"ig_steps": 3}, mgskd={"heads": 4})
    if parsed.compares_layers:
        parsed.bind(Stack(1, 16), Stack(2, 32))
    assert {"attribution-1-2-all", "attribution-3-2-all"}.isdisjoint(feature.name for feature in parsed.needs_ahead)
    answered = []

    def answers(batch):
        answered.append(batch)
        with torch.no_grad():
            return observe(teacher, batch, parsed.teacher_needs)

    def look(all_the_time, batch, features):
        return observe(student, batch, parsed.student_needs if all_the_time else features)

    found = []
    for all_the_time in (False, True):
        torch.manual_seed(0)
        answered.clear()
        cache = GradientCache(parsed, micro_batches, partial(look, all_the_time), answers)
        found.append([float(cache.step()[0].total.detach()) for _ in micro_batches])
        assert len(answered) == len(micro_batches) and not cache._answers, "answers that were used are dropped"
        after = torch.get_rng_state()
        torch.manual_seed(0)
        for batch in micro_batches:
            GradientCache(parsed, [batch], partial(look, all_the_time), answers).step()
        assert torch.equal(after, torch.get_rng_state()), "as if each row had been seen once"
    assert found[0] == found[1]


def test_hard_labels_alone_take_no_second_pass(world, micro_batches):
    student = AutoModelForSequenceClassification.from_pretrained(world.student).eval()
    asked = []

    def look(batch, features):
        asked.append(len(batch["labels"]))
        return observe(student, batch, features)

    cache = GradientCache(Objective.parse("ce"), micro_batches, look, lambda batch: View())
    total = sum(cache.step()[0].total / 4 for _ in micro_batches)
    assert asked == [8, 6, 8, 3]
    logits = torch.cat([observe(student, batch, [LOGITS]).logits for batch in micro_batches])
    labels = torch.cat([batch["labels"] for batch in micro_batches])
    torch.testing.assert_close(total, hard_label_loss(logits, labels))


def logit_batches(sizes):
    """Micro-batches that hold the logits of both sides themselves: of three classes, one of which may be impossible."""
    generator = torch.Generator().manual_seed(1)
    ours, theirs = torch.randn(2, sum(sizes), 3, generator=generator, dtype=torch.float64)
    ours[::2, 0] = theirs[::2, 0] = -torch.inf
    cut = zip(ours.split(sizes), theirs.split(sizes), strict=True)
    return [{"ours": a.clone().requires_grad_(), "theirs": b, "labels": torch.ones(len(a)).long()} for a, b in cut]


def by_logits(objective, batches, **more):
    return GradientCache(objective, batches, lambda b, _: View(b["ours"]), lambda b: View(b["theirs"]), **more)


@pytest.mark.parametrize("options", [{}, {"representation": "log_odds"}, {"cost": "l1"}, {"learnable_curvature": True}])
def test_impossible_classes_keep_loss_and_gradient_finite_for_any_cut(options):
    found = []
    for sizes in ([6], [2, 4]):
        objective = Objective.parse("sinkhorn:1", sinkhorn={"weight": 1.0, "reduction": "mean", **options})
        batches = logit_batches(sizes)
        cache = by_logits(objective, batches)
        totals = torch.stack([cache.step()[0].total for _ in batches])
        totals.mean().backward()
        gradients = [batch["ours"].grad for batch in batches] + [p.grad[None] for p in objective.parameters()]
        found.append([totals.detach().mean(), *torch.cat([g.reshape(-1) for g in gradients])])
    torch.testing.assert_close(found[1], found[0])
    assert torch.stack(found[0]).isfinite().all() and any(found[0][1:])


def test_an_update_is_solved_once_for_its_gradient_and_once_for_the_log(monkeypatch):
    objective = Objective.parse("kd:1+sinkhorn:1")
    solved = []
    loss = type(objective.terms["sinkhorn"].loss)
    for name in ("forward", "transport"):
        plain = getattr(loss, name)

        def counted(self, *args, plain=plain, name=name):
            solved.append((name, len(args[0])))
            return plain(self, *args)

        monkeypatch.setattr(loss, name, counted)
    cache = by_logits(objective, logit_batches([3, 4, 5]))
    figures = [cache.diagnostics(*cache.step()[1:]) for _ in range(3)]
    assert [solve for solve in solved if solve[0] == "forward"] == [("forward", 12)]
    assert solved.count(("transport", 12)) == 1 and ("transport", 5) not in solved
    assert figures[:2] == [{}, {}] and figures[2]["sinkhorn/marginal_error"] >= 0


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("objective", "looks"), [("kd+sinkhorn", ["cpu", "cuda"]), ("kd", ["cpu"])])
def test_several_processes_check_for_nan_only_where_they_synchronise_anyway(
    micro_batches, monkeypatch, objective, looks, device
):
    # two processes alike
    monkeypatch.setattr("sinkd.training.gradient_cache.world_size", lambda: 2)
    monkeypatch.setattr("sinkd.training.gradient_cache.summed", lambda values, device: values + values)
    cache = GradientCache(
        Objective.parse(objective), micro_batches, lambda batch, features: View(), lambda batch: View()
    )
    cache.device = torch.device(device)
    assert cache._checks == (device in looks)
    with pytest.raises(SharedError, match="in 6 rows of the student and 0 of the teacher"):
        cache._require_finite(torch.tensor([3, 0]))
    cache._require_finite(torch.tensor([0, 0]))


@pytest.mark.parametrize(("n_rows", "drop_last"), [(100, False), (96, False), (65, False), (100, True), (5, False)])
@pytest.mark.parametrize("cut", [(32, 1, 1), (8, 4, 1), (16, 1, 2), (8, 2, 2), (1, 16, 2)])
def test_every_cut_has_the_same_updates(n_rows, drop_last, cut):
    rows, micro_batches, ranks = cut
    lengths = np.arange(n_rows) % 7
    ranked = [UpdateBatches(n_rows, rows, 1, lengths, micro_batches, ranks, rank, drop_last) for rank in range(ranks)]
    parts = [list(batches) for batches in ranked]
    assert {len(batches) for batches in ranked} == {len(part) for part in parts}
    order = row_order(n_rows, 32, 1, 0, lengths)
    for update in range(ranked[0].updates):
        sizes = ranked[0].sizes(update)
        assert sizes.max() <= rows
        seen = []
        for row in sizes:
            taken = [part.pop(0) for part in parts]
            assert all(taken), "a process without a batch would wait for ever"
            seen += [number for size, batch in zip(row, taken, strict=True) for number in batch[:size]]
        assert seen == order[update * 32 : update * 32 + 32].tolist()
    assert not any(parts)


@pytest.mark.slow
def test_processes_give_the_loss_of_one(cut, cuts_by_two):
    # The last update of 129 rows has a single one: the second process has none.
    settings = {cost: ["--sinkhorn_cost", cost, "--max_train_rows", 129] for cost in ("l1", "lorentz")}
    settings |= {"curvature": CURVATURE, "scale": SCALE}
    same, wrong = ((16, 1), (8, 2)), (((16, 1), "rank"), ((8, 2), "rank"), ((8, 2), "micro"))
    jobs = {(name, size): [*size, *more] for name, more in settings.items() for size in same}
    jobs |= {
        (name, size, scope): [*size, *settings[name], "--transport_scope", scope]
        for name in ("l1", "lorentz")
        for size, scope in wrong
    }
    found = dict(zip(jobs, cuts_by_two(jobs.values()), strict=True))
    whole = {name: cut(32, 1, *more) for name, more in settings.items()}
    for (name, *cut_as), each in found.items():
        if len(cut_as) == 1:
            # the scale's slope is a single number, a sum in which nearly everything cancels
            bound = 10 * BOUND if name == "scale" else BOUND
            assert distance(each, whole[name]) < bound, (name, cut_as, differences(each, whole[name]))
        else:
            assert is_far(each, whole[name]), (name, cut_as, differences(each, whole[name]))


@pytest.mark.slow
def test_two_nodes_give_the_loss_of_one(cut, job, tmp_path):
    whole = cut(32, 1)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    agent = ["--nnodes", 2, "--nproc_per_node", 1, "--rdzv_backend", "c10d", "--rdzv_id", "two"]
    agents = [[*agent, "--rdzv_endpoint", f"localhost:{port}", "--node_rank", node] for node in (0, 1)]
    made, listed = job(16, 1), tmp_path / "jobs.json"
    listed.write_text(json.dumps([made]))
    torchrun(agents, HERE / "cuts.py", listed)
    assert distance(torch.load(made[0]), whole) < BOUND


@pytest.mark.slow
def test_a_sharded_model_has_the_gradient_of_the_whole(models, world, tmp_path):
    teacher_path, student_path = models[1], models[3]
    tokenizer = AutoTokenizer.from_pretrained(teacher_path)
    collator = Collator(tokenizer)
    rows = encode(load_task("cola", world.data).read("train"), tokenizer, 32)
    parts = [[range(0, 8), range(8, 13)], [range(13, 20), range(20, 25)]]
    torch.save([[collator([rows[i] for i in part]) for part in row] for row in parts], tmp_path / "rows.pt")
    torchrun(
        ["--standalone", "--nproc_per_node", 2],
        *(HERE / "sharded.py", tmp_path / "out.pt", student_path, teacher_path, tmp_path / "rows.pt"),
    )
    student = AutoModelForSequenceClassification.from_pretrained(student_path).eval()
    teacher = AutoModelForSequenceClassification.from_pretrained(teacher_path).eval()
    whole = collator([rows[i] for i in range(25)])

    def gradients():
        return [parameter.grad for parameter in student.parameters() if parameter.grad is not None]

    expected = sharded.gradient(student, teacher, [whole], gradients)
    found = torch.load(tmp_path / "out.pt")
    assert (found - expected).norm() < BOUND * expected.norm()

"""One update has one loss, however its rows are cut among micro-batches and processes."""

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sinkd.losses.feature import LOGITS, Stack
from sinkd.losses.labels import hard_label_loss
from sinkd.losses.objective import Objective
from sinkd.losses.term import Progress, View
from sinkd.tasks import Collator, encode, load_task
from sinkd.training.sampler import SeededSampler, UpdateBatches
from sinkd.training.teacher import observe
from sinkd.training.window import Window
from training import cuts, sharded

HERE = Path(__file__).resolve().parent
# A weight at which a wrong cut cannot hide, SGD (where Adam would divide rounding errors by themselves), clipping on.
SETTINGS = ["--distill_loss", "ce:0.3+kd:0.7+sinkhorn:1", "--sinkhorn_weight", 1, "--sinkhorn_reduction", "mean"]
SETTINGS += ["--config_overrides", "hidden_dropout_prob=0,attention_probs_dropout_prob=0", "--optim", "sgd"]
SETTINGS += ["--learning_rate", 0.02, "--max_steps", 10, "--max_grad_norm", 0.5, "--logging_steps", 1]
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
def cut(world, models, tmp_path):
    """Train with a cut of 32 rows an update: (rows, micro-batches, processes) -> what `cuts.py` keeps."""

    def cut(rows, micro_batches, processes=1, *more):
        out = tmp_path / f"{rows}-{micro_batches}-{processes}-{len(list(tmp_path.iterdir()))}"
        size = ["--per_gpu_batch_size", rows, "--gradient_accumulation_steps", micro_batches]
        argv = [f"{out}.pt", *world.flags(out, *models, *size, *SETTINGS, *more)]
        if processes == 1:
            cuts.run(argv[0], argv[1:])
        else:
            torchrun(["--standalone", "--nproc_per_node", processes], HERE / "cuts.py", *argv)
        return torch.load(f"{out}.pt")

    return cut


def distance(found, expected):
    """How far a cut is from the whole: of first loss, first gradient and displacement the largest, relative."""
    loss, whole = found["losses"][0]["loss"], expected["losses"][0]["loss"]
    vectors = [(found[name], expected[name]) for name in ("gradient", "moved")]
    return max(abs(loss - whole) / abs(whole), *((a - b).norm().item() / b.norm().item() for a, b in vectors))


@pytest.mark.parametrize("cost", ["l1", "lorentz"])
@pytest.mark.parametrize("rows", [150, 129])
def test_micro_batches_give_the_loss_of_the_whole(cut, cost, rows):
    # Five updates an epoch: the last has 22 rows, or a single one.
    more = ["--sinkhorn_cost", cost, "--max_train_rows", rows]
    whole = cut(32, 1, 1, *more)
    assert distance(cut(8, 4, 1, *more), whole) < BOUND
    assert distance(cut(12, 3, 1, *more), whole) > 100 * BOUND, "36 rows an update are another training"
    assert distance(cut(8, 4, 1, *more, "--transport_scope", "micro"), whole) > 100 * BOUND


def test_matching_and_a_learnable_curvature_do_not_see_the_cut(cut):
    more = ["--sinkhorn_value", "matching", "--learnable_curvature", "--curvature_lr", 5]
    whole, parts = cut(32, 1, 1, *more), cut(16, 2, 1, *more)
    assert distance(parts, whole) < BOUND
    curvatures = [log["sinkhorn/curvature"] for log in whole["losses"]]
    assert abs(curvatures[-1] - curvatures[0]) > 1e-3
    assert [log["sinkhorn/curvature"] for log in parts["losses"]] == pytest.approx(curvatures, rel=1e-5)


def test_unlabelled_rows_count_for_what_they_are(cut, tmp_path):
    # Hard labels average over the labelled rows of an update, and micro-batches hold different numbers of them.
    text = tmp_path / "more.txt"
    text.write_text("".join(f"the dog sees {n} cats\n" for n in range(70)))
    more = ["--unlabeled_file", text]
    assert distance(cut(8, 4, 1, *more), cut(32, 1, 1, *more)) < BOUND


@pytest.mark.parametrize("value", ["loss", "parts/ce", "parts/kd", "parts/sinkhorn"])
def test_the_log_shows_the_loss_of_the_whole(cut, value):
    whole, parts = cut(32, 1), cut(8, 4)
    logged = [[log[value] for log in run["losses"]] for run in (whole, parts)]
    assert logged[1] == pytest.approx(logged[0], rel=1e-4)


@pytest.fixture
def micro_batches(world, taught):
    """Four micro-batches of different size, and a student with dropout."""
    tokenizer = AutoTokenizer.from_pretrained(taught)
    rows = encode(load_task("cola", world.data).read("train"), tokenizer, 32)
    collator = Collator(tokenizer)
    return [collator([rows[i] for i in places]) for places in (range(8), range(8, 14), range(14, 22), range(22, 25))]


def test_with_dropout_two_passes_are_one_graph(world, taught, micro_batches):
    student = AutoModelForSequenceClassification.from_pretrained(world.student, hidden_dropout_prob=0.3).train()
    teacher = AutoModelForSequenceClassification.from_pretrained(taught).eval()
    objective = Objective.parse("kd+sinkhorn", sinkhorn={"weight": 1.0, "reduction": "mean"})
    sizes = np.array([[len(batch["labels"])] for batch in micro_batches])

    torch.manual_seed(0)
    window = Window(
        objective,
        micro_batches,
        sizes,
        0,
        student=lambda batch: observe(student, batch, [LOGITS]),
        teacher=lambda batch: observe(teacher, batch, [LOGITS]),
        progress=Progress(),
    )
    totals = []
    for _ in micro_batches:
        total = window.step()[0].total
        (total / 4).backward()
        totals.append(float(total))
    after = torch.rand(1)
    gradients = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}

    torch.manual_seed(0)
    student.zero_grad()
    logits = torch.cat([observe(student, batch, [LOGITS]).logits for batch in micro_batches])
    assert torch.equal(after, torch.rand(1)), "the random state goes on as if each row had been seen once"
    with torch.no_grad():
        answers = torch.cat([observe(teacher, batch, [LOGITS]).logits for batch in micro_batches])
    labels = torch.cat([batch["labels"] for batch in micro_batches])
    whole = objective(View(logits), View(answers), {"labels": labels}).total
    whole.backward()
    assert np.mean(totals) == pytest.approx(float(whole), rel=1e-5)
    for name, parameter in student.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("objective", ["kd+sinkhorn+integrated_saliency", "kd+sinkhorn_hidden+saliency+mgskd"])
def test_a_live_teacher_is_asked_once_and_attributions_are_not_looked_at_ahead(world, taught, micro_batches, objective):
    student = AutoModelForSequenceClassification.from_pretrained(
        world.student, hidden_dropout_prob=0.3, attn_implementation="eager"
    ).train()
    teacher = AutoModelForSequenceClassification.from_pretrained(taught).eval().requires_grad_(False)
    parsed = Objective.parse(objective, integrated_saliency={"ig_steps": 3}, mgskd={"heads": 4})
    if parsed.compares_layers:
        parsed.meet(Stack(1, 16), Stack(2, 32))
    assert {"attribution-1-2-all", "attribution-3-2-all"}.isdisjoint(feature.name for feature in parsed.needs_ahead)
    answered = []

    def answers(batch):
        answered.append(batch)
        with torch.no_grad():
            return observe(teacher, batch, parsed.teacher_needs)

    def window(batches, ahead):
        return Window(
            parsed,
            batches,
            np.array([[len(batch["labels"])] for batch in batches]),
            0,
            student=lambda batch: observe(student, batch, parsed.student_needs),
            teacher=answers,
            progress=Progress(),
            ahead=(lambda batch: observe(student, batch, parsed.needs_ahead)) if ahead else None,
            keeps_answers=True,
        )

    found = []
    for ahead in (True, False):
        torch.manual_seed(0)
        answered.clear()
        trained = window(micro_batches, ahead)
        found.append([float(trained.step()[0].total.detach()) for _ in micro_batches])
        assert len(answered) == len(micro_batches) and not trained._answers, "what is done is dropped"
        after = torch.get_rng_state()
        torch.manual_seed(0)
        for batch in micro_batches:
            window([batch], ahead).step()
        assert torch.equal(after, torch.get_rng_state()), "as if each row had been seen once"
    assert found[0] == found[1]


def test_hard_labels_alone_take_no_second_pass(world, micro_batches):
    student = AutoModelForSequenceClassification.from_pretrained(world.student).eval()
    asked = []

    def look(batch):
        asked.append(len(batch["labels"]))
        return observe(student, batch, [LOGITS])

    sizes = np.array([[len(batch["labels"])] for batch in micro_batches])
    window = Window(Objective.parse("ce"), micro_batches, sizes, 0, look, lambda batch: View(), Progress())
    total = sum(window.step()[0].total / 4 for _ in micro_batches)
    assert asked == [8, 6, 8, 3]
    logits = torch.cat([observe(student, batch, [LOGITS]).logits for batch in micro_batches])
    labels = torch.cat([batch["labels"] for batch in micro_batches])
    torch.testing.assert_close(total, hard_label_loss(logits, labels))


@pytest.mark.parametrize(("n_rows", "drop_last"), [(100, False), (96, False), (65, False), (100, True), (5, False)])
@pytest.mark.parametrize("cut", [(32, 1, 1), (8, 4, 1), (16, 1, 2), (8, 2, 2), (1, 16, 2)])
def test_every_cut_has_the_same_updates(n_rows, drop_last, cut):
    rows, micro_batches, ranks = cut
    sampler = SeededSampler(n_rows, 32, seed=1, lengths=np.arange(n_rows) % 7)
    ranked = [UpdateBatches(sampler, rows, micro_batches, ranks, rank, drop_last) for rank in range(ranks)]
    parts = [list(batches) for batches in ranked]
    assert {len(batches) for batches in ranked} == {len(part) for part in parts}
    order = sampler.order()
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
@pytest.mark.parametrize("cost", ["l1", "lorentz"])
def test_processes_give_the_loss_of_one(cut, cost):
    # The last update of 129 rows has a single one: the second process has none.
    more = ["--sinkhorn_cost", cost, "--max_train_rows", 129]
    whole = cut(32, 1, 1, *more)
    assert distance(cut(16, 1, 2, *more), whole) < BOUND
    assert distance(cut(8, 2, 2, *more), whole) < BOUND
    for scope in ("rank", "micro"):
        assert distance(cut(8, 2, 2, *more, "--transport_scope", scope), whole) > 100 * BOUND


@pytest.mark.slow
def test_two_nodes_give_the_loss_of_one(world, models, cut, tmp_path):
    whole = cut(32, 1)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    agent = ["--nnodes", 2, "--nproc_per_node", 1, "--rdzv_backend", "c10d", "--rdzv_id", "two"]
    agents = [[*agent, "--rdzv_endpoint", f"localhost:{port}", "--node_rank", node] for node in (0, 1)]
    out, folder = tmp_path / "nodes.pt", tmp_path / "nodes"
    flags = world.flags(folder, *models, "--per_gpu_batch_size", 16, *SETTINGS)
    torchrun(agents, HERE / "cuts.py", out, *flags)
    assert distance(torch.load(out), whole) < BOUND


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

    expected = sharded.gradient(student, teacher, [whole], np.array([[25]]), 0, gradients)
    found = torch.load(tmp_path / "out.pt")
    assert (found - expected).norm() < BOUND * expected.norm()

"""Training follows its arguments and log: cached or live teacher, with or without accumulation, in any precision."""

import math

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from sinkd import DistillationArguments, DistillationTrainer, Objective, SinkdError
from sinkd.losses import annealed_temperature, divergence
from sinkd.losses.objective import TERMS
from sinkd.models import load_encoder, load_tokenizer
from sinkd.tasks import Collator, encode, load_task, table_task
from sinkd.training.answered_rows import TAUGHT
from sinkd.training.arguments import FinetuneArguments
from sinkd.training.run import distill, finetune
from sinkd.training.sampler import row_order
from sinkd.training.settings import resolve_settings
from training.logged import Log, distilled

STILL = ["--config_overrides", "hidden_dropout_prob=0,attention_probs_dropout_prob=0"]
BOTH = ["--distill_loss", "kd+sinkhorn", "--sinkhorn_weight", "1", "--sinkhorn_reduction", "mean"]
EVERY_STEP = ["--logging_steps", "1"]
BRIEF = ["--learning_rate", "1e-3", "--report_to", "none"]


@pytest.fixture
def run(world, taught, tmp_path):
    """Distils on the world's corpus; the log of the run."""
    count = iter(range(99))

    def run(*flags: str, callbacks=()) -> Log:
        paths = ["--teacher_path", taught, "--student_path", world.student]
        return distilled(world.flags(tmp_path / f"run-{next(count)}", *paths, *flags), *callbacks)[0]

    return run


@pytest.fixture
def trainer(world, taught, tmp_path):
    """A trainer as a program makes one, with no command line."""

    def trainer(objective="kd+sinkhorn", teacher=True, rows="train", **settings) -> DistillationTrainer:
        task = load_task("cola", world.data)
        tokenizer = load_tokenizer(str(taught), "T")
        settings = {"eval_strategy": "no", "report_to": [], "disable_tqdm": True, "max_steps": 3, **settings}
        eval_rows = encode(task.read("dev"), tokenizer, 32)
        return DistillationTrainer(
            model=load_encoder(str(world.student), task, "S"),
            teacher=load_encoder(str(taught), task, "T") if teacher else None,
            objective=objective,
            args=DistillationArguments(output_dir=str(tmp_path / "out"), **settings),
            train_dataset=encode(task.read(rows), tokenizer, 32),
            eval_dataset=eval_rows,
            data_collator=Collator(tokenizer),
            processing_class=tokenizer,
            compute_metrics=lambda pair: {"share": float((pair[0].argmax(-1) == pair[1]).mean())},
        )

    return trainer


# The teacher


def test_a_run_with_the_cache_equals_a_run_without_it(run):
    cached, live = (run(*BOTH, *STILL, *EVERY_STEP, "--teacher_cache", cache) for cache in ("auto", "off"))
    assert len(cached.lines) == 10
    for name in ("loss", "parts/kd", "parts/ce", "parts/sinkhorn"):
        np.testing.assert_allclose(cached[name], live[name], atol=1e-5)
    assert len(set(cached["loss"])) == 10


def test_finding_the_cache_changes_nothing_for_the_student(run, tmp_path):
    # The student's dropout is on: the random state that it draws from must be the same.
    flags = ["--distill_loss", "kd", *EVERY_STEP, "--teacher_cache_dir", tmp_path / "answers"]
    assert run(*flags)["loss"].tolist() == run(*flags)["loss"].tolist()


def test_another_epoch_does_not_run_the_cached_teacher(run, monkeypatch):
    run()

    def refuse(*args):
        raise AssertionError("the teacher was asked again")

    monkeypatch.setattr("sinkd.training.teacher_cache.Answers._write", refuse)
    run("--num_train_epochs", "2", "--seed", "1")


def test_an_objective_of_labels_alone_needs_no_teacher(world, tmp_path):
    argv = world.flags(tmp_path / "out", "--student_path", world.student, "--distill_loss", "ce")
    args = resolve_settings(DistillationArguments, argv, "test")
    assert distill(args, load_task("cola", world.data)).outcomes[0].metric == "mcc"


def test_an_objective_that_needs_a_teacher_says_so(trainer):
    with pytest.raises(SinkdError, match=r"ce:0\.2\+kd:0\.8 needs a teacher"):
        trainer("kd", teacher=False)


def test_heads_of_different_width_are_refused(trainer):
    made = trainer("kd", teacher_cache="off")
    made.teachers.first.model.classifier = torch.nn.Linear(32, 5)
    with pytest.raises(SinkdError, match=r"student logits have shape \(16, 2\), teacher logits \(16, 5\)"):
        made.train()


def test_a_student_that_diverges_stops_with_its_side_and_count(trainer):
    made = trainer("kd+sinkhorn", use_cpu=True)  # on a GPU it is an assertion, which ends the process
    torch.nn.init.constant_(made.model.classifier.bias, math.inf)
    with pytest.raises(SinkdError, match=r"student logits: 16 of 16 rows"):
        made.train()


# The objective's own parameters


class Watch(TrainerCallback):
    """Sees the curvature's gradient when an update begins and when it is applied."""

    def __init__(self):
        self.begin, self.applied = [], []
        self.objective = None

    def on_step_begin(self, args, state, control, **kwargs):
        (parameter,) = self.objective.parameters()
        self.begin.append(parameter.grad is None or not parameter.grad.any())

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        (parameter,) = self.objective.parameters()
        self.applied.append(float(parameter.grad))


@pytest.mark.parametrize(("given", "rate"), [({}, 10), ({"curvature_lr": 0.5}, 1000), ({"curvature_lr": 0.0}, 0)])
def test_the_curvature_is_optimised_at_its_own_rate_without_weight_decay(trainer, given, rate):
    objective = Objective.parse("kd+sinkhorn", sinkhorn={"learnable_curvature": True})
    made = trainer(objective, learning_rate=5e-4, weight_decay=0.1, **given)
    groups = made.create_optimizer().param_groups
    own = [group for group in groups if any(p is q for p in group["params"] for q in objective.parameters())]
    assert [(group["lr"], group["weight_decay"], len(group["params"])) for group in own] == [(5e-4 * rate, 0.0, 1)]
    assert groups[0]["weight_decay"] == 0.1
    assert sum(len(group["params"]) for group in groups) == len(list(made.model.parameters())) + 1


def test_the_curvatures_gradient_is_of_one_update_alone(trainer):
    made = trainer(
        Objective.parse("ce:1+sinkhorn:1", sinkhorn={"learnable_curvature": True, "weight": 1.0}),
        gradient_accumulation_steps=2,
        max_steps=4,
    )
    watch = Watch()
    watch.objective = made.objective
    made.add_callback(watch)
    made.train()
    assert watch.begin == [True] * 4
    assert all(watch.applied) and len(set(watch.applied)) == 4


def test_a_learning_curvature_is_within_its_bounds_after_each_step(trainer):
    objective = Objective.parse("kd+sinkhorn", sinkhorn={"learnable_curvature": True, "weight": 1.0})
    (parameter,) = objective.parameters()
    found = []

    class See(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            found.append(abs(float(parameter.detach())))

    made = trainer(objective, curvature_lr=100.0)
    made.add_callback(See())
    made.train()
    assert found == pytest.approx([math.log(10)] * 3)


def test_a_learning_curvature_is_logged(run):
    log = run(*BOTH, *EVERY_STEP, "--learnable_curvature", "--curvature_lr", "0.1")
    assert log["sinkhorn/curvature"][0] == pytest.approx(1.0)
    assert len(set(log["sinkhorn/curvature"])) == 10


# The log


def test_the_log_holds_each_part_and_the_loss_is_their_weighted_sum(run):
    log = run(*BOTH, "--alpha", "0.7", "--beta", "0.5", *EVERY_STEP)
    total = 0.3 * log["parts/ce"] + 0.7 * log["parts/kd"] + 0.5 * log["parts/sinkhorn"]
    np.testing.assert_allclose(log["loss"], total, atol=2e-4)  # the Trainer rounds its loss
    assert (log["rows_per_second"] > 0).all()
    assert (log["sinkhorn/marginal_error"] >= 0).all()


def test_the_log_averages_over_the_steps_since_the_last_line(run):
    each = run(*BOTH, *STILL, *EVERY_STEP)
    five = run(*BOTH, *STILL, "--logging_steps", "5")
    for name in ("loss", "parts/kd", "parts/sinkhorn"):
        np.testing.assert_allclose(five[name], each[name].reshape(2, 5).mean(1), atol=1e-4)


def test_training_by_hard_labels_logs_its_rows_per_second_too(world, tmp_path):
    argv = world.flags(tmp_path / "run", "--model_path", world.student, *EVERY_STEP)
    log = Log()
    finetune(resolve_settings(FinetuneArguments, argv, "test"), load_task("cola", world.data), [log])
    np.testing.assert_allclose(log["loss"], log["parts/ce"], atol=1e-4)
    assert (log["rows_per_second"] > 0).all()


def test_logging_once_an_epoch_brings_the_figures_too(run):
    log = run(*BOTH, "--logging_strategy", "epoch", "--num_train_epochs", "2")
    assert len(log["sinkhorn/marginal_error"]) == 2


# How it trains


def test_accumulation_gives_the_numbers_of_the_whole_batch(run):
    flags = ["--distill_loss", "kd", *STILL, *EVERY_STEP]
    whole = run(*flags, "--per_gpu_batch_size", "16")
    parts = run(*flags, "--per_gpu_batch_size", "4", "--gradient_accumulation_steps", "4")
    np.testing.assert_allclose(whole["loss"], parts["loss"], atol=2e-4)
    np.testing.assert_allclose(whole["grad_norm"], parts["grad_norm"], rtol=1e-3)


def test_bfloat16_on_a_cpu_trains_and_stays_near_float32(run):
    flags = [*BOTH, *STILL, *EVERY_STEP, "--use_cpu"]
    exact, short = run(*flags), run(*flags, "--bf16")
    assert np.isfinite(short["loss"]).all()
    assert (short["parts/kd"] != exact["parts/kd"]).any()
    np.testing.assert_allclose(short["loss"], exact["loss"], atol=0.05)


def test_the_annealed_temperature_follows_the_epoch(run, monkeypatch):
    asked = []

    def spy(temperature, epoch, epochs):
        asked.append((temperature, epoch, epochs))
        return annealed_temperature(temperature, epoch, epochs)

    monkeypatch.setattr(divergence, "annealed_temperature", spy)
    run("--distill_loss", "kd_anneal", "--temperature", "4", "--num_train_epochs", "3")
    assert asked == [(4.0, epoch, 3) for epoch in range(3) for _ in range(10)]


def test_batches_follow_seed_and_epoch(trainer):
    made = trainer("ce", teacher=False, seed=3, max_steps=-1, num_train_epochs=2)
    lengths = np.asarray(made.train_dataset["length"])
    seen = []
    collate = made.data_collator
    made.data_collator = lambda rows: seen.append([row["input_ids"] for row in rows]) or collate(rows)
    made.train()
    expected = []
    for epoch in range(2):
        order = row_order(len(lengths), 16, 3, epoch, lengths)
        expected += [[made.train_dataset[int(i)]["input_ids"] for i in order[j : j + 16]] for j in range(0, 160, 16)]
    assert seen[:20] == expected


def test_evaluation_does_not_change_the_random_state(trainer):
    made = trainer()
    before = torch.get_rng_state()
    made.evaluate()
    assert torch.equal(torch.get_rng_state(), before)


def test_every_row_is_answered_even_if_training_drops_the_last(trainer):
    made = trainer(dataloader_drop_last=True)
    made.train()
    assert len(made.answers(made.eval_dataset)) == len(made.eval_dataset)
    assert made.args.dataloader_drop_last


def test_answers_come_in_the_order_of_the_rows(trainer):
    made = trainer()
    rows = made.eval_dataset
    answers = made.answers(rows)
    np.testing.assert_allclose(made.predict(rows).predictions, answers, atol=1e-5)
    made.model.eval()
    for i in (0, 31, 63):
        batch = made.data_collator([rows[i]])
        inputs = {name: batch[name].to(made.args.device) for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            alone = made.model(**inputs).logits[0].cpu()
        np.testing.assert_allclose(answers[i], alone, atol=1e-5)


def test_a_program_gets_the_loss_and_its_own_metrics(trainer):
    metrics = trainer().evaluate()
    assert 0 <= metrics["eval_share"] <= 1
    assert metrics["eval_loss"] > 0
    assert {"eval_runtime", "eval_samples_per_second"} <= metrics.keys()


def test_a_program_may_pass_the_objective_as_text_and_its_own_rows(trainer):
    made = trainer("kd", max_steps=2)
    made.train_dataset = [made.train_dataset[i] for i in range(40)]  # no data set to cache for: the teacher is live
    made.train()
    assert made.state.global_step == 2


# Rows without labels, and scores for labels


def test_the_teacher_answers_for_unlabelled_rows_and_hard_labels_skip_them(run, tmp_path):
    text = tmp_path / "more.txt"
    text.write_text("".join(f"the dog sees {n} cats\n" for n in range(64)))

    class See(TrainerCallback):
        def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
            self.rows = train_dataloader.dataset
            self.steps = state.max_steps

    see = See()
    log = run("--unlabeled_file", str(text), *EVERY_STEP, callbacks=[see])
    assert (len(see.rows), see.steps) == (224, 14)
    labels = see.rows.rows["labels"]
    assert list(labels[160:]) == [-100] * 64
    assert -100 not in list(labels[:160])
    assert all(see.rows[row][TAUGHT][0]["logits"].isfinite().all() for row in range(224))
    assert np.isfinite(log["loss"]).all()
    assert (log["parts/kd"] > 0).all()


def test_unlabelled_rows_alone_teach_by_the_teacher_alone(run, tmp_path, world):
    text = tmp_path / "more.txt"
    text.write_text("the dog sees the cats\n" * 160)
    log = run("--unlabeled_file", str(text), "--max_train_rows", "1", *EVERY_STEP)
    assert sorted(log["parts/ce"] > 0) == [False] * 10 + [True]


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """A small table of similarity scores, and a teacher for it."""
    folder = tmp_path_factory.mktemp("scores")
    words = "dog cat man woman book song".split()
    rows = [(a, b, 5.0 * (a == b) + 0.25 * i % 2) for i, a in enumerate(words) for b in words]
    for name, part in (("train", rows * 2), ("dev", rows[::2])):
        lines = [f"the {a} is here\tthe {b} is here\t{score}" for a, b, score in part]
        (folder / f"{name}.tsv").write_text("\n".join(["one\tother\tscore", *lines]) + "\n")
    return folder


def scored_task(folder):
    columns = {"text_columns": ["one", "other"], "label_column": "score"}
    return table_task(folder / "train.tsv", folder / "dev.tsv", **columns)


@pytest.fixture(scope="module")
def scorer(world, scores):
    out = scores / "teacher"
    argv = ["--model_path", world.teacher, "--output_dir", out, "--num_train_epochs", 2, *BRIEF]
    summary = finetune(resolve_settings(FinetuneArguments, list(map(str, argv)), "test"), scored_task(scores))
    assert summary.outcomes[0].metric == "spearman"
    return out


def test_a_regression_trains_with_every_term(world, scores, scorer, tmp_path):
    argv = ["--teacher_path", scorer, "--student_path", world.student, "--output_dir", tmp_path / "out", *EVERY_STEP]
    terms = [name for name, term in TERMS.items() if not term.reads_embedding]
    argv += ["--distill_loss", "+".join(f"{term}:1" for term in terms), "--num_train_epochs", 1, *BRIEF]
    argv += ["--mgskd_heads", 4]  # of widths 16 and 32
    log = Log()
    task = scored_task(scores)
    summary = distill(resolve_settings(DistillationArguments, list(map(str, argv)), "test"), task, [log])
    parts = {name for name in log.lines[0] if name.startswith("parts/")}
    assert {name.removeprefix("parts/").partition("/")[0] for name in parts} == set(terms)
    for name in parts:
        assert np.isfinite(log[name]).all() and (log[name] > 0).any(), name
    assert set(summary.outcomes[0].scores) == {"pearson", "spearman"}

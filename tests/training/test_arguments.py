"""Flags, recipes and defaults: precedence, allowed values, and errors."""

from pathlib import Path

import pytest

from sinkd import DistillationArguments, SinkdError, SinkhornLoss
from sinkd.training.arguments import FinetuneArguments
from sinkd.training.settings import resolve_settings


def read(*argv: object, kind=DistillationArguments, **keywords):
    return resolve_settings(kind, list(map(str, argv)), "sinkd distill", **keywords)


def refused(*argv: object, **keywords) -> str:
    with pytest.raises(SinkdError) as caught:
        read(*argv, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def recipe(tmp_path):
    def write(text: str, name: str = "recipe.yaml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Publishes a recipe, `glue/cola`, instead of all others."""

    def write(text: str) -> None:
        (tmp_path / "published" / "glue").mkdir(parents=True, exist_ok=True)
        (tmp_path / "published" / "glue" / "cola.yaml").write_text(text)

    monkeypatch.setattr("sinkd.recipes.folder", lambda: tmp_path / "published")
    return write


# Which wins


def test_the_command_line_wins_over_config_over_published_recipe_over_defaults(recipe, published):
    published("alpha: 0.1\nbeta: 0.1\ntemperature: 9\nseed: 7")
    config = recipe("task_name: cola\nalpha: 0.2\nbeta: 0.2", "own.yaml")
    args = read("--config", config, "--alpha", "0.3", recipe=lambda task: f"glue/{task}")
    assert (args.alpha, args.beta, args.temperature, args.seed) == (0.3, 0.2, 9.0, 7)
    assert args.sinkhorn_n_iters == 20
    assert read("--task_name", "mnli", recipe=lambda task: f"glue/{task}").alpha == 0.8  # which has no recipe here


@pytest.mark.parametrize(
    ("text", "argv", "sizes"),
    [
        ("", ["--per_gpu_batch_size", 6], (6, 6)),
        ("", ["--per-gpu-batch-size", 6], (6, 6)),
        ("", ["--batch_size", 6], (6, 6)),
        ("per_gpu_batch_size: 6", [], (6, 6)),
        ("batch_size: 6", [], (6, 6)),
        ("per_gpu_batch_size: 6", ["--per_device_train_batch_size", 2], (2, 6)),
        ("per_device_eval_batch_size: 32", ["--per_gpu_batch_size=8"], (8, 8)),
        ("per_device_eval_batch_size: 32", ["--task_name", "cola"], (6, 32)),  # over the recipe's for both
    ],
)
def test_one_batch_size_sets_both_unless_something_higher_sets_one(recipe, published, text, argv, sizes):
    published("per_gpu_batch_size: 6")
    args = read("--config", recipe(text), *argv, recipe=lambda task: f"glue/{task}")
    assert (args.per_device_train_batch_size, args.per_device_eval_batch_size) == sizes


# What a recipe may hold


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("learning_rate: 5e-5", {"learning_rate": 5e-5}),  # which YAML reads as text
        ("alpha: 1\nkeep_layers: 3\nseed: 3", {"alpha": 1.0, "keep_layers": "3", "seed": 3}),
        ("num_train_epochs: '2'", {"num_train_epochs": 2.0}),
        ("seeds: [0, 1]\ntext_columns: [a, b]", {"seeds": "0,1", "text_columns": "a,b"}),
        ("report_to: [tensorboard]", {"report_to": ["tensorboard"]}),
        ("learnable_curvature: true\ndo_lower_case: 'true'", {"learnable_curvature": True, "do_lower_case": True}),
        ("group_by_length: no", {"group_by_length": False}),
        ("exp_name:", {"exp_name": None}),
        ("# nothing yet", {"alpha": 0.8}),
        ("lr_scheduler_type: cosine\nuse_cpu: true", {"lr_scheduler_type": "cosine", "use_cpu": True}),
        ("lr_scheduler_kwargs: {num_cycles: 0.25}", {"lr_scheduler_kwargs": {"num_cycles": 0.25}}),
    ],
)
def test_yaml_values_have_the_types_of_the_flags(recipe, text, values):
    args = read("--config", recipe(text))
    for name, value in values.items():
        assert getattr(args, name) == value and isinstance(getattr(args, name), type(value))


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("aplha: 1", ['"aplha"', "is not a flag", 'did you mean "alpha"']),
        ("alpha: lots", ["alpha", "'lots'", "does not fit"]),
        ("alpha: true", ["alpha", "True", "does not fit"]),
        ("alpha:", ["alpha", "missing"]),
        ("alpha: [1]", ["alpha", "[1]"]),
        ("seed: 1.5", ["seed", "1.5"]),
        ("loss_func: L3", ["loss_func", "'L3'", "L1, L2, smoothL1"]),
        ("no_group_by_length: true", ['"no_group_by_length"', 'did you mean "group_by_length"']),
        ("help: true", ['"help"']),
        ("- alpha", ["keys and values", "list"]),
        ("alpha: 1: 2", ["is not YAML"]),
    ],
)
def test_a_wrong_recipe_is_one_sentence_that_names_file_and_key(recipe, text, fragments):
    path = recipe(text)
    sentence = refused("--config", path)
    for fragment in [str(path), *fragments]:
        assert fragment in sentence


def test_a_config_that_is_not_there_is_named():
    assert "nowhere.yaml" in refused("--config", "nowhere.yaml")
    assert "--config" in refused("--config")


# What the command line may hold


def test_an_unknown_flag_names_the_nearest():
    assert refused("--aplha", 1) == 'sinkd distill has no flag "--aplha"; did you mean "--alpha"?'
    assert refused("--alph", "1").endswith('did you mean "--alpha"?')  # no abbreviations
    assert "has no flag" in refused("--xyzzy")
    assert '"stray"' in refused("stray")


@pytest.mark.parametrize(
    ("argv", "fragments"),
    [
        (["--alpha", "x"], ["--alpha", "'x'"]),
        (["--alpha"], ["--alpha", "expected one argument"]),
        (["--student_init", "steal"], ["student_init", "'steal'", "pretrained"]),
        (["--per_gpu_batch_size", "0"], ["--per_gpu_batch_size is 0", "at least 1"]),
        (["--max_seq_length", "0"], ["--max_seq_length is 0"]),
        (["--learning_rate", "0"], ["--learning_rate is 0.0", "above 0"]),
        (["--learning_rate", "nan"], ["--learning_rate is nan"]),
        (["--num_train_epochs", "-1"], ["--num_train_epochs is -1.0"]),
        (["--seeds", "0,x"], ["--seeds", '"0,x"', "as in 0,1,2"]),
        (["--seeds", "0,0"], ["--seeds 0,0", "twice"]),
        (["--seed", "-1"], ["-1 is no seed", "from 0"]),
        (["--save_strategy", "sometimes"], ["sometimes"]),
    ],
)
def test_a_wrong_value_is_one_sentence(argv, fragments):
    sentence = refused(*argv)
    for fragment in fragments:
        assert fragment in sentence


PUBLISHED = {
    "exp_name": "kd", "test_output_dir": "answers", "data_dir": "./datas/glue", "task_name": "cola",
    "teacher_path": "T", "student_path": "S", "student_init": "copy", "distill_loss": "kd+sinkhorn", "alpha": 0.9,
    "temperature": 4.0, "beta": 0.8, "topk": 20, "ig_steps": 2, "normalization_type": 1, "loss_func": "smoothL1",
    "mgskd_w": 0.5, "matching_strategy": "emb+final", "max_seq_length": 64, "per_gpu_batch_size": 2,
    "gradient_accumulation_steps": 2, "warmup_steps": 10, "weight_decay": 0.1, "max_grad_norm": 0.5,
    "local_rank": -1, "seed": 3, "logging_steps": 10, "save_steps": 50, "adam_epsilon": 1e-6,
    "num_train_epochs": 4.0, "learning_rate": 3e-5,
}  # fmt: skip
SWITCHES = ["do_train", "do_eval", "do_test", "do_lower_case", "only_mgskd"]


def test_every_flag_of_the_published_student_script_is_taken():
    argv = [part for name, value in PUBLISHED.items() for part in (f"--{name}", value)]
    args = read(*argv, *(f"--{name}" for name in SWITCHES))
    assert {name: getattr(args, name) for name in PUBLISHED} == PUBLISHED | {"teacher_path": ["T"]}
    assert all(getattr(args, name) is True for name in SWITCHES)


def test_every_flag_of_the_published_teacher_script_is_taken():
    names = PUBLISHED.keys() & FinetuneArguments.__dataclass_fields__.keys()
    assert {"exp_name", "seed", "save_steps", "local_rank", "max_seq_length"} <= names
    argv = [part for name in sorted(names) for part in (f"--{name}", PUBLISHED[name])]
    args = read(*argv, "--do_test", "--do_lower_case", "--model_path", "M", kind=FinetuneArguments)
    assert {name: getattr(args, name) for name in names} == {name: PUBLISHED[name] for name in names}


def test_defaults_are_those_of_the_published_parsers():
    teacher, student = read(kind=FinetuneArguments), read()
    for args, numbers in ((teacher, (32, 32, 5, 2e-5, 42)), (student, (16, 16, 8, 5e-5, 0))):
        sizes = (args.per_device_train_batch_size, args.per_device_eval_batch_size)
        assert (*sizes, args.num_train_epochs, args.learning_rate, args.seed) == numbers
        assert (args.max_seq_length, args.warmup_steps, args.weight_decay, args.max_grad_norm) == (128, 0, 0, 1)
        assert (args.gradient_accumulation_steps, args.logging_steps, args.adam_epsilon) == (1, 100, 1e-8)
        assert args.lr_scheduler_type == "linear"
    assert (student.distill_loss, student.alpha, student.temperature, student.beta) == ("kd", 0.8, 2, 1)
    assert (student.topk, student.ig_steps, student.normalization_type) == (768, 1, 2)
    assert (student.loss_func, student.mgskd_w, student.matching_strategy) == ("L2", 1, "emb+uniform")
    assert student.student_init == "pretrained"


def test_a_flag_of_sinkhorn_is_a_keyword_of_the_loss():
    args = read("--sinkhorn_cost", "l1", "--sinkhorn_top_k", 3, "--pairing", 2, "--sinkhorn_debias")
    options = args.options_of("sinkhorn")
    assert (options["cost"], options["top_k"], options["pairing"], options["debias"]) == ("l1", 3, 2.0, True)
    loss, published = SinkhornLoss(**read().options_of("sinkhorn")), SinkhornLoss.published()
    assert repr(loss) == repr(published)
    names = set(SinkhornLoss.__init__.__annotations__) - {"return", "backend"}  # programs alone choose a backend
    assert names == options.keys()


def test_save_steps_adds_to_saving_each_epoch():
    assert read().save_strategy == "epoch"
    assert read("--save_steps", 50).save_strategy == "steps"
    assert read("--save_steps", 50, "--save_strategy", "no").save_strategy == "no"

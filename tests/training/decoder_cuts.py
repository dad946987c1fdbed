"""Distil language models, cut in several ways, and keep what a cut must not change.

`python decoder_cuts.py JOBS.json`, alone or under torchrun: runs every job of the file, one after the other in the same
processes, and writes for each what `cuts.Recorder` keeps.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset, Features, List, Value

from sinkd import DistillationArguments, DistillationTrainer
from sinkd.models import LanguageModel
from sinkd.training.gather import leave_group
from small_language_models import small_model, word_tokenizer
from training.cuts import Recorder


def rows_of(count: int) -> Dataset:
    """Prompts of 1 to 7 tokens and answers of 2 to 6, so that parts of an update hold different numbers of tokens."""
    generator = torch.Generator().manual_seed(5)

    def ids(length: int) -> list[int]:
        return torch.randint(2, len(word_tokenizer()), (length,), generator=generator).tolist()

    prompts = [ids(1 + 3 * row % 7) for row in range(count)]
    answers = [[*ids(1 + row * row % 5), 1] for row in range(count)]
    columns = {"input_ids": prompts, "answer_ids": answers}
    columns["length"] = [len(p) + len(a) for p, a in zip(prompts, answers, strict=True)]
    token_ids = List(Value("int32"))
    return Dataset.from_dict(
        columns, Features({"input_ids": token_ids, "answer_ids": token_ids, "length": Value("int32")})
    )


def run(job: dict) -> None:
    """One distillation: `out`, `kind` of model, `n_rows`, and the settings of `DistillationArguments`."""
    student = small_model(job["kind"], len(word_tokenizer()), seed=1, layers=1)
    args = DistillationArguments(
        output_dir=job["out"] + ".run",
        distill_loss="ce:0.02+kl:0.1+sinkhorn:1+semantic:0.1",
        sinkhorn_weight=1.0,
        sinkhorn_reduction="mean",
        # A rate at which weights move by far more than float32 rounds them: the displacement is their difference.
        optim="sgd",
        learning_rate=0.3,
        max_steps=10,
        max_grad_norm=0.5,
        logging_steps=1,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **job["settings"],
    )
    family = LanguageModel(word_tokenizer(), config=student.config)
    DistillationTrainer(
        model=student,
        teacher=small_model(job["kind"], len(word_tokenizer()), seed=2),
        objective=args.distill_loss,
        args=args,
        train_dataset=rows_of(job["n_rows"]),
        family=family,
        data_collator=family.collator,
        processing_class=family.tokenizer,
        callbacks=[Recorder(job["out"])],
    ).train()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        run(job)
    leave_group()

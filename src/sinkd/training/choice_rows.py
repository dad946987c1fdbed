"""A task of chosen answers, as a language model reads it: worded by a template, tokenised, scored by likelihood."""

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from sinkd.models import decoder_start
from sinkd.tasks import ChoiceTask, Template, find_template, templates
from sinkd.tasks.generative import Reader, encode_answers, encode_choices
from sinkd.tasks.generative_collate import AnswerCollator
from sinkd.training.arguments import TaskArguments
from sinkd.training.likelihood import choice_log_likelihoods


@dataclass(frozen=True)
class ChoiceRows:
    """The examples of a task for models of a config's kind. Has what `Rows` has.

    The run's seed draws its shots, and what the filter `choice` gives in the wording of a training row; dev and test
    rows are worded alike in every run, so that their scores compare.
    """

    task: ChoiceTask
    tokenizer: PreTrainedTokenizerBase
    args: TaskArguments
    config: PretrainedConfig

    def of_run(self, args: TaskArguments) -> "ChoiceRows":
        """The rows of one run, which its seed draws; its arguments name the template from here on."""
        args.template_name = self.template.name
        return replace(self, args=args)

    @cached_property
    def template(self) -> Template:
        """The wording: the one that is named, else the task's first."""
        name = self.args.template_name
        if name is None:
            name = templates(self.task.name, self.args.templates_dir)[0].name
        return find_template(self.task.name, name, self.args.templates_dir)

    @cached_property
    def reader(self) -> Reader:
        """How prompts and answers become tokens."""
        args = self.args
        lengths = (args.max_length, args.target_max_length)
        return Reader(self.tokenizer, not self.config.is_encoder_decoder, *lengths, args.input_eos)

    @property
    def pad_to(self) -> int | None:
        """The length that prompts are padded to at least; None for no more than a batch needs."""
        return self.args.max_length if self.args.pad_to_max_length else None

    @cached_property
    def train(self) -> datasets.Dataset:
        """Prompts with their answers."""
        worded = self.task.examples("train", self.template, self.args.seed)
        examples = self._first(worded, self.args.max_train_rows)
        shots = self.args.num_shots
        if shots is not None and shots < len(examples):
            drawn = np.random.default_rng(self.args.seed).choice(len(examples), shots, replace=False)
            examples = examples.select(sorted(drawn.tolist()))
        return encode_answers(examples, self.reader)

    @cached_property
    def dev(self) -> dict[str, datasets.Dataset]:
        """Prompts with their choices, of each dev split."""
        return {split: encode_choices(examples, self.reader) for split, examples in self._dev_examples.items()}

    def test(self, split: str) -> datasets.Dataset:
        """The rows of a test split."""
        return encode_choices(self.task.examples(split, self.template), self.reader)

    def decide(self, answers: np.ndarray) -> np.ndarray:
        """Which choice each row of `TaskTrainer.answers` comes to, (n,)."""
        return answers.argmax(axis=-1)

    @property
    def fingerprints(self) -> dict[str, str]:
        """What decides the rows beside files and flags."""
        return {"template": self.template.fingerprint}

    @property
    def names(self) -> dict[str, str]:
        """What a table of results says of a run."""
        collection, _, name = self.task.name.partition("/")
        dataset = "super_glue" if collection == "superglue" else collection
        return {"dataset_name": dataset, "dataset_config_name": name, "template_name": self.template.name}

    def trainer_keywords(self) -> dict[str, Any]:
        """The keywords of a `TaskTrainer` that task and tokenizer decide, in training and in evaluation alike."""
        return {
            "data_collator": AnswerCollator(self.tokenizer, decoder_start(self.config), self.pad_to),
            "processing_class": self.tokenizer,
            "scores": self._scores,
            "combine": self.task.combine,
            "best_metric": self.task.metric,
            "predict": partial(choice_log_probabilities, length_normalize=self.args.length_normalize),
        }

    @cached_property
    def _dev_examples(self) -> dict[str, datasets.Dataset]:
        splits = {split: self.task.examples(split, self.template) for split in self.task.dev_splits}
        return {split: self._first(examples, self.args.max_dev_rows) for split, examples in splits.items()}

    def _scores(self, answers: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        # These tasks have one dev split; the official scores need its examples, and not the numbers of right choices.
        (examples,) = self._dev_examples.values()
        return self.task.scores(examples, self.decide(answers))

    @staticmethod
    def _first(rows: datasets.Dataset, most: int | None) -> datasets.Dataset:
        return rows if most is None else rows.select(range(min(len(rows), most)))


def choice_log_probabilities(model: Any, batch: dict[str, Tensor], length_normalize: bool = False) -> Tensor:
    """(B, K) log-probabilities of each row's choices among themselves, -inf beyond a row's last."""
    return torch.log_softmax(choice_log_likelihoods(model, batch, length_normalize), -1)

"""Run a distillation and keep what a cut of its batches must not change.

`python cuts.py OUT FLAGS...`, alone or under torchrun: writes the first loss, the gradient of the first update and how
far the weights moved in all, each as one vector.
"""

import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

from sinkd.tasks import load_task
from sinkd.training.arguments import DistillationArguments, parse_arguments
from sinkd.training.run import distill


class Recorder(TrainerCallback):
    """Keeps the losses, the first gradient and the displacement, of the model's parameters and the objective's."""

    def __init__(self, out):
        self.out, self.gradient, self.losses = Path(out), None, []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.model = model
        self.start = self.vector(model)

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if self.gradient is None:
            self.gradient = torch.cat([p.grad.flatten() for p in self.model.parameters() if p.requires_grad])

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.losses.append({name: value for name, value in logs.items() if name == "loss" or "/" in name})

    def on_train_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            moved = self.vector(self.model) - self.start
            torch.save({"losses": self.losses, "gradient": self.gradient, "moved": moved}, self.out)

    @staticmethod
    def vector(model):
        return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad]).clone()


def run(out, argv):
    args = parse_arguments(DistillationArguments, [str(part) for part in argv], "cuts")
    distill(args, load_task("cola", args.data_dir), callbacks=[Recorder(out)])


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(sys.argv[1], sys.argv[2:])

"""Run distillations and keep what a cut of their batches must not change.

`python cuts.py JOBS.json`, alone or under torchrun: runs every job of the file (its output, then its flags), one after
the other in the same processes. It writes the losses, and of the model's parameters and of the objective's own, each as
one vector, the gradient of the first update before it is clipped and how far they moved.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

from sinkd.tasks import load_task
from sinkd.training.arguments import DistillationArguments
from sinkd.training.gather import leave_group
from sinkd.training.run import distill
from sinkd.training.settings import resolve_settings


class Recorder(TrainerCallback):
    """Keeps the losses, the first gradient and the displacement, of the model's parameters and the objective's."""

    def __init__(self, out):
        self.out, self.found, self.losses = Path(out), {}, []

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        optimised = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        models = {id(parameter) for parameter in model.parameters()}
        self.parameters = {
            "": [parameter for parameter in optimised if id(parameter) in models],
            "_own": [parameter for parameter in optimised if id(parameter) not in models],
        }
        self.start = {whose: vector(parameters) for whose, parameters in self.parameters.items()}

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if not self.found:
            gradients = {whose: [p.grad for p in ours if p.grad is not None] for whose, ours in self.parameters.items()}
            self.found = {f"gradient{whose}": vector(ours) for whose, ours in gradients.items()}

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            if not self.losses:  # clipping hides how long a gradient was
                clipped = self.found["gradient"]
                self.found["gradient"] = clipped * (logs["grad_norm"] / clipped.norm())
            self.losses.append({name: value for name, value in logs.items() if name == "loss" or "/" in name})

    def on_train_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            moved = {f"moved{whose}": vector(ours) - self.start[whose] for whose, ours in self.parameters.items()}
            torch.save({"losses": self.losses, **self.found, **moved}, self.out)


def vector(tensors):
    return torch.cat([torch.zeros(0), *(tensor.detach().flatten() for tensor in tensors)])


def run(out, *flags):
    args = resolve_settings(DistillationArguments, flags, "cuts")
    distill(args, load_task("cola", args.data_dir), callbacks=[Recorder(out)])


if __name__ == "__main__":
    torch.set_num_threads(1)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        run(*job)
    leave_group()

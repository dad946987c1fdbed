"""How: arguments, the trainer on transformers.Trainer, the teacher live or cached, checkpoints, the manifest."""

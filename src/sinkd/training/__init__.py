"""Runs: settings, the teacher and its cached answers, gradient cache, trainer, run folder."""

"""Sweeps: many trials, run in a local pool or on a Ray cluster, and their comparison."""

"""Many trials: a sweep of commands, run in a local pool or on a Ray cluster, and its comparison."""

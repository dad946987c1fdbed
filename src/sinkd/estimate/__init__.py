"""How much memory a run needs, from the configs of its models."""

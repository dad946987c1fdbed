"""How much memory a run needs on each device, worked out from the configs of its models."""

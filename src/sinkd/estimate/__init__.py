"""Estimate a run's memory on each device from the configs of its models."""

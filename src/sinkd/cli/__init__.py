"""The commands, one file each; `sinkd.cli.main` routes."""

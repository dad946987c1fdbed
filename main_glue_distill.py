"""Distil a student from a teacher on a GLUE task: the published entry point, onto `sinkd distill`."""

import sys

from installation import use_installation

if __name__ == "__main__":
    use_installation()
    from sinkd.cli.published import main

    sys.exit(main("main_glue_distill.py"))

"""Let a script of this folder run with any Python: one that lacks sinkd hands over to the `.venv` beside this file."""

import os
import sys
from importlib.util import find_spec


def use_installation():
    """Return where sinkd can be imported; else start the same command again in `.venv`, or leave with status 2."""
    if find_spec("sinkd"):
        return
    python = os.path.join(os.path.dirname(os.path.abspath(__file__)), ".venv", "bin", "python")
    # Already there and still no sinkd: an unfinished installation, which starting again would not mend.
    if sys.executable == python or not os.path.exists(python):
        print('sinkd is not installed here; run "sh ins.sh" first', file=sys.stderr)
        sys.exit(2)
    sys.stdout.flush()
    os.execv(python, [python, *sys.argv])

"""Fine-tune a teacher like T0 on a SuperGLUE task: published entry point, onto `sinkd finetune`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from installation import use_installation

if __name__ == "__main__":
    use_installation()
    from sinkd.cli.published import main

    sys.exit(main("T0/distillation_t.py"))

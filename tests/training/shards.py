"""A sinkd command with a teacher's cache of small shards: `shards.py 16 cache-teacher ...`, alone or under torchrun.

Beside the cache each process leaves `asked-RANK`, the rows that it asked the teacher.
"""

import os
import sys
from pathlib import Path

from sinkd.cli.main import main
from sinkd.training import teacher, teacher_cache

if __name__ == "__main__":
    teacher_cache.SHARD = teacher.SHARD = int(sys.argv[1])
    argv = sys.argv[2:]
    asked = []
    batches_of = teacher.batches_of

    def counted(rows, lengths, batch_size):
        asked.extend(rows)
        return batches_of(rows, lengths, batch_size)

    teacher.batches_of = counted
    status = main(argv)
    folder = Path(argv[argv.index("--teacher_cache_dir") + 1])
    (folder / f"asked-{os.environ.get('RANK', 0)}").write_text(" ".join(map(str, asked)))
    sys.exit(status)

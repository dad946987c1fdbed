"""Process memory while a student is distilled on a data set of MNLI's size.

    python benchmarks/memory.py --out docs/benchmarks-memory.md

Writes a file in MNLI's twelve columns with generated nonsense (words of random syllables, a premise of about 20 and a
hypothesis of about 10, parses included), then starts a fresh process that goes through what training goes through:
`load_task`, `Task.read`, `encode` at 128 tokens, one epoch of batches of 32, grouped by length, and then training
itself: a `DistillationTrainer` whose teacher is asked about every row and whose student is trained for some updates
on batches that carry the answers (both BERTs of one layer and width 32: a megabyte or two). After each stage:

- peak: the most memory that the process ever had (resource.getrusage); pages of memory-mapped files count in it.
- anonymous: what is the process's own at that moment. The difference to resident is files, which the system
  takes back when it needs room.

The promise is 2 GB beside the model. The cache folder is empty at the start.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAIRS = 392_702  # rows of MNLI's training file
HEADER = (
    "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse "
    "sentence1 sentence2 label1 gold_label"
).split()
LABELS = ("contradiction", "entailment", "neutral")
LIMIT = 2e9
UPDATES = 200


def words(count: int, chance: random.Random) -> list[str]:
    """So many different words of two to four syllables."""
    found: dict[str, None] = {}
    while len(found) < count:
        syllables = (chance.choice("bdfgklmnprstv") + chance.choice("aeiou") for _ in range(chance.randint(2, 4)))
        found["".join(syllables)] = None
    return list(found)


def write_mnli(folder: Path, pairs: int, lexicon: list[str], chance: random.Random) -> Path:
    """MNLI/train.tsv with so many rows; the other files are not needed."""
    (folder / "MNLI").mkdir(parents=True)
    path = folder / "MNLI" / "train.tsv"
    with path.open("w", encoding="utf-8") as file:
        file.write("\t".join(HEADER) + "\n")
        for row in range(pairs):
            texts = [chance.choices(lexicon, k=max(3, round(chance.gauss(mean, 0.4 * mean)))) for mean in (20, 10)]
            binary = [" ".join(f"( {word}" for word in text) + " )" * len(text) for text in texts]
            parses = ["(ROOT (S " + " ".join(f"(NN {word})" for word in text) + "))" for text in texts]
            label = chance.choice(LABELS)
            plain = [" ".join(text).capitalize() + "." for text in texts]
            file.write("\t".join([str(row), f"{row}", f"{row}n", "fiction", *binary, *parses, *plain, label, label]))
            file.write("\n")
    return path


def measured() -> dict[str, float]:
    """Bytes of this process: peak, resident and anonymous."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kilobytes = {name: int(status[name].split()[0]) for name in ("VmRSS", "RssAnon")}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak": peak * 1024, "resident": kilobytes["VmRSS"] * 1024, "anonymous": kilobytes["RssAnon"] * 1024}


def measure(folder: Path) -> None:
    """In the fresh process: go through the stages and print one JSON line each."""
    clock = time.perf_counter()

    def stage(name: str, rows: int = 0) -> None:
        nonlocal clock
        seconds, clock = time.perf_counter() - clock, time.perf_counter()
        print(json.dumps({"stage": name, "rows": rows, "seconds": seconds} | measured()), flush=True)

    import numpy as np
    from torch.utils.data import DataLoader
    from transformers import AutoTokenizer, BertConfig, BertModel

    from sinkd.models import load_encoder
    from sinkd.tasks import Collator, encode, load_task
    from sinkd.training.arguments import DistillationArguments
    from sinkd.training.distillation import DistillationTrainer
    from sinkd.training.sampler import UpdateBatches

    tokenizer = AutoTokenizer.from_pretrained(str(folder / "tokenizer"))
    stage("import torch, transformers, sinkd")
    task = load_task("mnli", folder)
    rows = task.read("train")
    stage("read", len(rows))
    encoded = encode(rows, tokenizer, 128)
    stage("tokenize", len(encoded))
    order = UpdateBatches(len(encoded), 32, seed=0, lengths=np.asarray(encoded["length"]))
    batches = DataLoader(encoded, batch_sampler=order, collate_fn=Collator(tokenizer))
    seen = sum(len(batch["labels"]) for batch in batches)
    stage("one epoch of batches", seen)
    encoded = encode(task.read("train"), tokenizer, 128)
    stage("read and tokenize again, from the cache", len(encoded))
    sizes = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 128}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    start = str(folder / "start")
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes, **still)).save_pretrained(start)
    settings = {"max_steps": UPDATES, "per_device_train_batch_size": 32, "per_device_eval_batch_size": 128}
    settings |= {"eval_strategy": "no", "save_strategy": "no", "report_to": [], "disable_tqdm": True}
    trainer = DistillationTrainer(
        model=load_encoder(start, task, "start"),
        teacher=load_encoder(start, task, "start"),
        objective="kd+sinkhorn",
        args=DistillationArguments(output_dir=str(folder / "out"), **settings),
        train_dataset=encoded,
        data_collator=Collator(tokenizer),
        processing_class=tokenizer,
    )
    trainer.train()
    stage(f"the teacher asked, {UPDATES} updates of the student", len(encoded))


def write_tokenizer(folder: Path, lexicon: list[str]) -> None:
    """A WordPiece tokenizer with segment ids that cuts the generated words into their syllables or less."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "."])
    pieces |= dict.fromkeys(word for word in lexicon[::2])
    pieces |= dict.fromkeys(mark + a + b for mark in ("", "##") for a in "bdfgklmnprstv" for b in "aeiou")
    core = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(str(folder / "tokenizer"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pairs", type=int, default=PAIRS, help="rows to generate")
    parser.add_argument("--out", type=Path, help="write the table there as Markdown, and as JSON beside it")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return 0

    from sinkd.report import Table, show

    with tempfile.TemporaryDirectory() as name:
        folder, chance = Path(name), random.Random(0)
        lexicon = words(20_000, chance)
        write_tokenizer(folder, lexicon)
        path = write_mnli(folder, args.pairs, lexicon, chance)
        megabytes = path.stat().st_size / 1e6
        environment = os.environ | {"SINKD_CACHE": str(folder / "cache")}
        command = [sys.executable, __file__, "--measure", str(folder)]
        output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
        cache = sum(file.stat().st_size for file in (folder / "cache").rglob("*.arrow")) / 1e6
    # the trainer prints lines of its own
    stages = [json.loads(line) for line in output.splitlines() if line.startswith('{"stage"')]
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    title = f"Memory: {args.pairs:,} pairs, a file of {megabytes:.0f} MB, {cache:.0f} MB of Arrow files"
    table = Table(title, ["stage", "rows", "seconds", "peak MB", "resident MB", "anonymous MB"], note=machine)
    for stage in stages:
        sizes = (f"{stage[name] / 1e6:.0f}" for name in ("peak", "resident", "anonymous"))
        table.add(stage["stage"], f"{stage['rows']:,}", f"{stage['seconds']:.1f}", *sizes)
    show(table)
    if args.out:
        given = f"--pairs {args.pairs} " * (args.pairs != PAIRS)
        head = f"```sh\npython benchmarks/memory.py {given}--out {args.out}\n```\n"
        what = __doc__.split("\n\n", 2)[2].strip()
        args.out.write_text(
            f"# Memory at MNLI's size\n\n{head}\n{what}\n\n{table.title}.\n\n{table.markdown()}\n{machine}\n",
            encoding="utf-8",
        )
        args.out.with_suffix(".json").write_text(json.dumps({"machine": machine, "stages": stages}, indent=1) + "\n")
    peak = max(stage["peak"] for stage in stages)
    if peak > LIMIT:
        print(f"peak {peak / 1e9:.2f} GB, more than the {LIMIT / 1e9:.0f} GB promised", file=sys.stderr)
    return int(peak > LIMIT)


if __name__ == "__main__":
    sys.exit(main())

"""`sinkd convert`: convert Google's TensorFlow checkpoints of BERT to a folder for `--model_path`."""

import os
from collections.abc import Sequence

from sinkd.exchange.tensorflow import convert
from sinkd.training.parser import ArgumentParser


def parser() -> ArgumentParser:
    """The flags."""
    parser = ArgumentParser(prog="sinkd convert", description=__doc__)
    parser.add_argument(
        "checkpoint", help="bert_model.ckpt, or its folder, which must also contain bert_config.json and vocab.txt"
    )
    parser.add_argument("output", help="a new folder for the model")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: Sequence[str]) -> None:
    """Parse a command line and run it."""
    given = parser().parse_args(argv)
    # TensorFlow would log its build each time, but is only used to read a file.
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    model = convert(given.checkpoint, given.output)
    print(
        f"{given.output}: {type(model).__name__}, {model.config.num_hidden_layers} layers of width "
        f"{model.config.hidden_size}, {model.num_parameters():,} parameters"
    )

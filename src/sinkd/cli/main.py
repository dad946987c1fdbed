"""`sinkd COMMAND`: routes to one file a command, and turns what goes wrong into one sentence and an exit status.

0 done, 1 failure, 2 wrong input, 130 interrupted, 143 terminated after writing a checkpoint.
"""

import importlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

from sinkd.errors import SharedError, SinkdError, Terminated

# command -> what it does, for the help; the module of that name has `main(argv) -> None`
COMMANDS = {
    "demo": "watch a teacher being trained and students being distilled, on a corpus made on the spot",
    "finetune": "train a model on a task's labels: the teacher",
    "distill": "train a small model under an objective that a teacher takes part in: the student",
    "cache-teacher": "ask the teacher all that a distillation needs of it, on any number of processes",
    "evaluate": "score a trained model on a task's dev set",
    "predict": "write a trained model's answers for a task's test set",
    "prompts": "list a task's prompt templates, or fetch promptsource's",
    "convert": "write a BERT checkpoint of TensorFlow as a folder that --model_path takes",
    "download": "fetch GLUE, SuperGLUE, BERT, or the published teachers and students",
    "export": "write a trained model for other runtimes (ONNX), and check it there",
    "sweep": "run every combination of tasks, objectives, settings and seeds, on Ray",
    "estimate": "work out the memory that a teacher and a student need on each device",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print("sinkd: a large model teaches a small one by optimal transport\n\nusage: sinkd COMMAND [FLAGS]\n")
        print("\n".join(f"  {name:13} {text}" for name, text in COMMANDS.items()))
        print("\nsinkd COMMAND --help lists its flags")
        return 0
    if argv[0] == "--version":
        import sinkd

        print(f"sinkd {sinkd.__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        return _complain(f'"{name}" is no command of sinkd; the commands are {", ".join(COMMANDS)}')
    return guarded(lambda: importlib.import_module(f"sinkd.cli.{name.replace('-', '_')}").main(rest), rest)


def guarded(command: Callable[[], None], argv: Sequence[str]) -> int:
    """Run a command; its exit status, and one sentence on standard error for what went wrong."""
    quieten()
    try:
        command()
        _leave_group()
        return 0
    except SharedError as error:
        return _complain(str(error), argv) if os.environ.get("RANK", "0") == "0" else 2
    except SinkdError as error:
        return _complain(str(error), argv)
    except KeyboardInterrupt:
        return _complain("interrupted; the same command goes on from its last checkpoint", argv, status=130)
    except SystemExit as leave:  # argparse, for --help
        return int(leave.code or 0)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Terminated as stop:
        return _complain(str(stop), argv, status=143)
    except OSError as error:
        hint = "" if "--traceback" in argv else " (--traceback shows where)"
        named = error.filename is not None and error.strerror is not None
        told = f"{error.filename} cannot be read or written: {error.strerror}" if named else f"the system says: {error}"
        return _complain(f"{told}{hint}", argv, status=1)
    except Exception as error:
        if "device-side assert" in str(error):  # a GPU's check, which nobody waited for
            text = 'a check on the GPU failed; the line above with "Assertion" in it says which (--use_cpu counts rows)'
            return _complain(text, argv, status=1)
        hint = "" if "--traceback" in argv else " (--traceback shows where)"
        return _complain(f"{type(error).__name__}: {error}{hint}", argv, status=1)


def _leave_group() -> None:
    """Leave torchrun's process group, where this process joined one."""
    if "torch.distributed" in sys.modules:
        importlib.import_module("sinkd.training.gather").leave_group()


def _complain(sentence: str, argv: Sequence[str] = (), status: int = 2) -> int:
    if "--traceback" in argv:
        traceback.print_exc()
    print(f"sinkd: {sentence}", file=sys.stderr)
    return status


def quieten() -> None:
    """Libraries report through their own bars and warnings; ours says what a user can act on."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    logging.basicConfig(level=logging.WARNING, format="sinkd: %(message)s")
    logging.getLogger("sinkd").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"torch|transformers|accelerate")

"""`sinkd COMMAND`: run the command's module, and turn an error into one sentence and an exit status.

The status: 0 success, 1 failure, 2 wrong input, 130 interrupted, 143 terminated after writing a checkpoint.
"""

import importlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

from sinkd.cli.flag_index import check, completion
from sinkd.errors import SharedError, SinkdError, Terminated, unknown

# command -> its help; the module of that name has `main(argv) -> None`
COMMANDS = {
    "demo": "train a teacher and distil small students, on real text, in minutes",
    "demo-llm": "distil a language model's answers into a small classifier, without a single label",
    "finetune": "train a model on a task's labels: the teacher",
    "distill": "train a small model to match a teacher: the student",
    "cache-teacher": "run the teacher over a task's data once, in any number of processes, and cache its answers",
    "evaluate": "score a trained model on a task's dev set",
    "predict": "write a trained model's answers for a task's test set",
    "prompts": "list a task's prompt templates, or fetch promptsource's",
    "convert": "convert a TensorFlow checkpoint of BERT to a folder for --model_path",
    "download": "fetch GLUE, SuperGLUE, BERT, the published teachers and students, or what the demos need",
    "export": "export a trained model to ONNX, and check its answers",
    "sweep": "run every combination of tasks, objectives, settings and seeds",
    "estimate": "estimate the memory that a teacher and a student need on each device",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: this process's) and return its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print("sinkd: a large model teaches a small one by optimal transport\n\nusage: sinkd COMMAND [FLAGS]\n")
        print("\n".join(f"  {name:13} {text}" for name, text in COMMANDS.items()))
        print("\nsinkd COMMAND --help lists its flags; sinkd --completion bash (or zsh) completes them in a shell")
        return 0
    if argv[0] == "--version":
        import sinkd

        print(f"sinkd {sinkd.__version__}")
        return 0
    name, *rest = argv
    if name == "--completion":
        return guarded(lambda: print(completion(rest, COMMANDS)), rest)
    if name not in COMMANDS:
        return _complain(str(unknown(f'"{name}" is no command of sinkd', name, COMMANDS)))
    return guarded(lambda: _run(name, rest), rest)


def _run(name: str, argv: Sequence[str]) -> None:
    check(name, argv, COMMANDS[name])
    importlib.import_module(f"sinkd.cli.{name.replace('-', '_')}").main(argv)


def guarded(command: Callable[[], None], argv: Sequence[str]) -> int:
    """Run a command and return its exit status. Prints an error as one sentence; `--traceback` in `argv` shows more."""
    quieten()
    trace = "--traceback" in argv
    try:
        command()
        if "torch.distributed" in sys.modules:  # this process may have joined torchrun's group
            importlib.import_module("sinkd.training.gather").leave_group()
        return 0
    except SharedError as error:  # every process raises it
        return _complain(str(error), trace) if os.environ.get("RANK", "0") == "0" else 2
    except SinkdError as error:
        return _complain(str(error), trace)
    except KeyboardInterrupt as stop:
        return _complain(str(stop) or "interrupted; the same command goes on from what is finished", trace, status=130)
    except SystemExit as leave:  # argparse, for --help
        return int(leave.code or 0)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Terminated as stop:
        return _complain(str(stop), trace, status=143)
    except Exception as error:
        return _complain(_sentence(error, "" if trace else " (--traceback shows where)"), trace, status=1)


def _sentence(error: Exception, hint: str) -> str:
    """Describe an unexpected error."""
    if isinstance(error, OSError):
        if error.filename is not None and error.strerror is not None:
            return f"{error.filename} cannot be read or written: {error.strerror}{hint}"
        return f"the system says: {error}{hint}"
    if "device-side assert" in str(error):  # a kernel's check fails later than the line that started the kernel
        return 'a check on the GPU failed; the line above with "Assertion" in it says which (--use_cpu counts rows)'
    return f"{type(error).__name__}: {error}{hint}"


def _complain(sentence: str, trace: bool = False, status: int = 2) -> int:
    if trace:
        traceback.print_exc()
    print(f"sinkd: {sentence}", file=sys.stderr)
    return status


def quieten() -> None:
    """Silence the libraries' progress bars, and warnings that users cannot act on."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    logging.basicConfig(level=logging.WARNING, format="sinkd: %(message)s")
    logging.getLogger("sinkd").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"torch|transformers|accelerate")

"""The command line: a Click group with one module per command, each imported when it is called."""

import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import Final, TextIO

import click

from edgeresnet import __version__
from edgeresnet.cli.terminal import note
from edgeresnet.errors import DataWarning, EdgeResNetError
from edgeresnet.extras import claim_own_names

# Name of each command and the line that `edgeresnet --help` shows for it, so that help imports none of them.
COMMANDS: Final = {
    "train": "Train a network on CIFAR-10 or on a folder of images.",
    "average": "Average the weights of several runs into better ones.",
    "export": "Convert trained weights to ONNX, FP32 and INT8, and verify them.",
    "adopt": "Take in any ONNX classifier: described, pixels in, proven equal.",
    "quantize": "Quantize any CNN in ONNX form to dynamic INT8.",
    "bench": "Measure latency and accuracy beside the original.",
    "compare": "Tell what has changed between two benchmark records.",
    "report": "Turn benchmark records into a page for the browser.",
    "tune": "Find the fastest way to run a network on this machine.",
    "eval": "Measure accuracy, per class and against the original.",
    "predict": "Classify images.",
    "verify": "Find out whether this machine answers as the maker's did.",
    "info": "Show what a model file says of itself.",
    "doctor": "Examine what this machine can run, and why not.",
}

EXIT_FAILED: Final = 1
EXIT_INTERRUPTED: Final = 130


class LazyGroup(click.Group):
    """Finds commands in the modules named after them."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"edgeresnet.cli.{name}").command
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: edgeresnet predict cat.jpg",
)
@click.version_option(__version__, prog_name="edgeresnet")
def cli() -> None:
    """Take a trained image network to the edge: small, fast and provably faithful."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    The one place where deliberate errors become a line on stderr and an exit status: 1 the work failed, 2 the call was wrong.
    A bug keeps its traceback.
    """
    claim_own_names()
    _unwind_when_stopped()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names of files that are not UTF-8, and terminals that are not.
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")  # of damage that is repaired, or else an ImageError
            warnings.simplefilter("always", DataWarning)
            warnings.showwarning = _show_warning
            status = cli.main(arguments, prog_name="edgeresnet", standalone_mode=False)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "edgeresnet"
        _complain(f"{error.format_message()} (see {path} --help)")
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _complain(error.format_message())
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has gone; what the interpreter flushes at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except EdgeResNetError as error:
        _complain(str(error))
        sys.exit(EXIT_FAILED)
    except OSError as error:
        _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error))
        sys.exit(EXIT_FAILED)
    sys.exit(status if isinstance(status, int) else 0)


def _unwind_when_stopped() -> None:
    """Have a service manager's signal, or that of a closed terminal, end the command as an exception does: no temporary file is left.

    What is ignored, as nohup has it, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _complain(message: str) -> None:
    note(f"error: {' '.join(message.split())}")


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None
) -> None:
    note(f"{'note' if category is DataWarning else 'warning'}: {message}")

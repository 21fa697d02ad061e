"""A process of its own for each model that is measured: what a runtime leaves behind (threads, memory, settings) stays in it.

It does one job after the other, which are objects with a method ``run``; they and what they return are sent through its pipes.
"""

import os
import pickle
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, Final, Protocol, Self, TypeVar

from edgeresnet.errors import BenchmarkError, EdgeResNetError

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

# The child finds modules where this process finds them, with our packages before a user's own folders of their names.
_PROGRAM: Final = (
    "import sys; sys.path[:] = {path!r}; from edgeresnet.extras import claim_own_names; claim_own_names(); "
    "from benchmarks.worker import serve; serve()"
)


class Job(Protocol[T_co]):
    """Work for another process."""

    def run(self, kept: dict[str, Any]) -> T_co:
        """Do it there; ``kept`` is what jobs leave for those that follow, such as a loaded model."""


@dataclass(frozen=True)
class _Reply:
    """What became of a job: a value, a refusal in words for the user, or the traceback of a bug."""

    value: Any = None
    refusal: str | None = None
    bug: str | None = None


class Worker:
    """Another Python process that does jobs; the caller waits for each.

    Interrupting the caller (Ctrl-C) does not interrupt it; closing it ends it at once.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - this very Python and our own program
            [sys.executable, "-c", _PROGRAM.format(path=sys.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def do(self, job: Job[T]) -> T:
        """Have a job done.

        Raises:
            BenchmarkError: If it could not be done, for a reason that a user can understand, or its process was ended from outside.
            RuntimeError: If it failed by a mistake of ours; the message holds the traceback.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise ValueError("the process has no pipes")
        try:
            pickle.dump(job, stdin)
            stdin.flush()
            reply: _Reply = pickle.load(stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise BenchmarkError(f"its process ended before it answered ({self._describe_end()})") from error
        if reply.bug is not None:
            raise RuntimeError(reply.bug)
        if reply.refusal is not None:
            raise BenchmarkError(reply.refusal)
        value: T = reply.value
        return value

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was left to send has no reader any more
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _describe_end(self) -> str:
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "it says nothing that can be understood"
        if status == -signal.SIGKILL:
            return "killed: out of memory?"
        return signal.strsignal(-status) or f"signal {-status}" if status < 0 else f"exit status {status}"


def serve() -> None:
    """Do the jobs that come through standard input, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jobs = sys.stdin.buffer
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    kept: dict[str, Any] = {}
    while True:
        try:
            job: Job[Any] = pickle.load(jobs)
        except EOFError:
            return
        _answer(answers, _attempt(job, kept))


def _attempt(job: Job[Any], kept: dict[str, Any]) -> _Reply:
    try:
        return _Reply(job.run(kept))
    except EdgeResNetError as error:
        return _Reply(refusal=str(error))
    except MemoryError:
        return _Reply(refusal="there is not enough memory")
    except Exception:  # noqa: BLE001 - it goes to the caller with its traceback, as a bug
        return _Reply(bug=traceback.format_exc())


def _answer(answers: BinaryIO, reply: _Reply) -> None:
    pickle.dump(reply, answers)
    answers.flush()

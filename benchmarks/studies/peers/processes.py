"""Another environment's Python, which does what it is asked and stands still in between."""

import json
import os
import selectors
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from edgeresnet.errors import EdgeResNetError

WORKER: Final = "benchmarks.studies.peers.worker"


class PeerError(EdgeResNetError, RuntimeError):
    """A peer cannot be set up, converted, loaded or run; the others go on."""


class Worker:
    """A process that answers one request after the other, a JSON object a line.

    Between requests it is stopped: threads of a runtime that wait for more work by spinning take nothing from the one whose turn it is.

    Args:
        python: Interpreter of its environment.
        packages: Folder with our packages and nothing else, so that its environment is not mixed with this one.
        log: File for what it prints.
        threads: CPU threads that its runtime is to use; it gets as many cores.
    """

    def __init__(self, python: Path, packages: Path, log: Path, threads: int) -> None:
        self._log = log
        self._rest = b""
        alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment = alone | {"PYTHONPATH": str(packages), "PYTHONNOUSERSITE": "1", "OMP_NUM_THREADS": str(threads)}
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603  # our own module
                [python, "-u", "-m", WORKER, str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                bufsize=0,
                cwd=packages,
                env=environment,
            )

    def ask(self, do: str, *, timeout_s: float, **arguments: Any) -> Any:
        """Have something done.

        Args:
            do: A function of ``worker``.
            timeout_s: Seconds to wait for it.
            arguments: Its arguments, as JSON has them.

        Raises:
            PeerError: If it fails, takes longer, or ends the process.
        """
        stdin = self._process.stdin
        if stdin is None:
            raise ValueError("the process has no input")
        self._process.send_signal(signal.SIGCONT)
        try:
            stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        except BrokenPipeError as error:
            raise PeerError(self._describe_end()) from error
        reply = json.loads(self._read_line(do, timeout_s))
        self._process.send_signal(signal.SIGSTOP)
        if "failure" in reply:
            raise PeerError(reply["failure"])
        return reply["value"]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _read_line(self, do: str, timeout_s: float) -> bytes:
        stdout = self._process.stdout
        if stdout is None:
            raise ValueError("the process has no output")
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise PeerError(f"did not {do} within {timeout_s:.0f} s")
                part = os.read(stdout.fileno(), 1 << 16)
                if not part:
                    raise PeerError(self._describe_end())
                self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _describe_end(self) -> str:
        status = self._process.wait()
        how = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return f"its process {how}{last_line(self._log, ': ')}"


def last_line(log: Path, before: str) -> str:
    """What a log ends with, behind ``before``; nothing if it is empty."""
    lines = log.read_text(errors="replace").split("\n")
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return before + said if said else ""

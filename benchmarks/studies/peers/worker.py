"""Runs in a peer's environment: answers requests, a JSON object a line, from standard input (see ``processes.Worker``)."""

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.conditions import Moment
from benchmarks.studies.peers.materials import Materials
from edgeresnet.evaluation import Logits
from edgeresnet.images import Pixels
from edgeresnet.timing import time_calls


class Served:
    """What the requests of one process share: the loaded form, and the images that it is given."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def convert(self, runtime: str, form: str, materials: dict[str, str]) -> list[str]:
        """Make the files of a form."""
        given = Materials(**{name: Path(value) for name, value in materials.items()})
        return [str(file) for file in _runtime(runtime).convert(form, given)]

    def load(self, runtime: str, form: str, path: str, images: str, versions: list[str]) -> dict[str, str]:
        """Open a form, on as many cores as it has threads, and run it once; returns versions of distributions."""
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: self._threads])
        self._run: Callable[[Pixels], Logits] = _runtime(runtime).load(form, Path(path), self._threads)
        self._images: Pixels = np.load(images)
        self._turns = cycle(range(len(self._images)))
        self._call()
        return {name: version(name) for name in versions}

    def answer(self, target: str) -> None:
        """Write the logits of all images, float32 (N, classes), to an .npy file."""
        logits = [np.array(self._run(self._images[i : i + 1]), np.float32) for i in range(len(self._images))]
        np.save(target, np.stack(logits))

    def time(self, warmup_s: float, seconds: float) -> dict[str, Any]:
        """Times of calls with one image each, in ms, after some that do not count, and why they should not be believed, if so."""
        time_calls(self._call, seconds=warmup_s)
        before = Moment.now()
        calls_ms = time_calls(self._call, seconds=seconds)
        return {"calls_ms": calls_ms, "doubt": before.until(Moment.now()).doubt}

    def _call(self) -> None:
        i = next(self._turns)
        self._run(self._images[i : i + 1])


def _runtime(name: str) -> Any:
    return import_module(f"benchmarks.studies.peers.runtimes.{name}")


def serve(threads: int) -> None:
    """Answer until the input ends."""
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    served = Served(threads)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {"value": getattr(served, request.pop("do"))(**request)}
        except Exception as error:  # noqa: BLE001  # whatever a runtime raises is a row of the table
            sys.excepthook(type(error), error, error.__traceback__)
            said = str(error).strip().split("\n")[0]
            reply = {"failure": f"{type(error).__name__}: {said}" if said else type(error).__name__}
        print(json.dumps(reply), file=answers, flush=True)  # the protocol


if __name__ == "__main__":
    serve(int(sys.argv[1]))

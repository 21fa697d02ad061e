"""Throughput of a model file: image by image on parallel streams, as the runtime does it, against plain batches.

``python -m benchmarks.studies.streams MODEL.onnx``
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import click
import numpy as np

from benchmarks.environment import describe_environment
from edgeresnet.evaluation import synthetic_images
from edgeresnet.images import Pixels
from edgeresnet.machine import available_cores
from edgeresnet.providers import load_onnxruntime
from edgeresnet.session import Session
from edgeresnet.spec import INPUT_NAME
from edgeresnet.target import Target

BATCH: Final = 32
ROUNDS: Final = 5


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Images per second, medians of interleaved rounds.

    Attributes:
        streams: Through ``Session.logits``.
        batches: The bare file in batches of ``BATCH``, all threads on each.
        ratio: The first over the second.
        batch_independent: Whether ``Session.logits`` gave every image what it gives it alone, to 1e-5.
    """

    streams: float
    batches: float
    ratio: float
    batch_independent: bool


def measure_throughput(model: Path, count: int, threads: int) -> Throughput:
    """Run ``count`` images both ways, in turns, each with the other's session closed."""
    session = Session(model, Target(threads=threads))
    images = synthetic_images(session.spec.input, count)
    sample = slice(None, None, max(1, count // 16))
    together = session.logits(images)[sample]
    alone = np.concatenate([session.logits(image[None]) for image in images[sample]])
    session.close()
    streams, batches = [], []
    for _ in range(ROUNDS):
        streams.append(_time_streams(model, images, threads))
        batches.append(_time_batches(model, images, threads))
    fast, plain = count / statistics.median(streams), count / statistics.median(batches)
    return Throughput(streams=fast, batches=plain, ratio=fast / plain, batch_independent=np.allclose(together, alone, rtol=1e-5, atol=1e-5))


def _time_streams(model: Path, images: Pixels, threads: int) -> float:
    session = Session(model, Target(threads=threads))
    seconds = _time(lambda: session.logits(images), lambda: session.logits(images[:BATCH]))
    session.close()
    return seconds


def _time_batches(model: Path, images: Pixels, threads: int) -> float:
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(pixels: Pixels) -> None:
        for start in range(0, len(pixels), BATCH):
            session.run(None, {INPUT_NAME: pixels[start : start + BATCH]})

    return _time(lambda: run(images), lambda: run(images[:BATCH]))


def _time(call: Callable[[], object], warm_up: Callable[[], object]) -> float:
    warm_up()
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--images", "count", type=click.IntRange(min=BATCH), default=512, show_default=True, help="Images per round.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [default: every core that the process may use]")
def command(model: Path, count: int, threads: int | None) -> None:
    """Compare single images on parallel streams with plain batches of the same file; prints JSON."""
    used = threads or available_cores()
    measured = measure_throughput(model, count, used)
    click.echo(json.dumps({"environment": describe_environment(), "threads": used, "images": count, **asdict(measured)}, indent=1))


if __name__ == "__main__":
    command()

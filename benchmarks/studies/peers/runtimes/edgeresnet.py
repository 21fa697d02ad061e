"""This project's own files."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.studies.peers.materials import Materials
from edgeresnet.evaluation import Logits
from edgeresnet.images import Pixels
from edgeresnet.session import Session
from edgeresnet.target import Target


def convert(form: str, materials: Materials) -> list[Path]:
    """See ``runtimes``."""
    return [materials.exports / f"resnet18-{form.replace('_', '-')}.onnx"]


def load(form: str, path: Path, threads: int) -> Callable[[Pixels], Logits]:
    """See ``runtimes``."""
    session = Session(path, Target(threads=threads))

    def run(image: Pixels) -> Logits:
        logits: Logits = session.logits(image)[0]
        return logits

    return run

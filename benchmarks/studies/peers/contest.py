"""From nothing to a record: environments, conversions, answers, times."""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.conditions import Conditions
from benchmarks.environment import describe_environment
from benchmarks.studies.peers.conversion import convert, export_ours
from benchmarks.studies.peers.environments import Workshop, make_environment, own_packages
from benchmarks.studies.peers.materials import Materials
from benchmarks.studies.peers.processes import PeerError, Worker
from benchmarks.studies.peers.record import SCHEMA, PeerResult, summarize
from benchmarks.studies.peers.roster import ENVIRONMENTS, Peer
from benchmarks.studies.peers.rounds import time_in_turns
from edgeresnet.datasets import read_split
from edgeresnet.evaluation import SYNTHETIC_NAME, Logits, Parity, compare_logits, synthetic_images
from edgeresnet.extras import needing
from edgeresnet.images import Pixels
from edgeresnet.progress import Track
from edgeresnet.spec import ImageInput

# As many as `edgeresnet export` takes for static INT8.
CALIBRATION_IMAGES: Final = 256
# torch.compile takes a minute on a slow machine.
LOAD_TIMEOUT_S: Final = 900.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure.

    Attributes:
        cache: Folder that keeps environments and converted files for the next run.
        data: Images, as every command takes them; None for generated ones.
        limit: Number of images to compare the answers on.
        threads: CPU threads of each peer.
        rounds: Rounds of timing.
        seconds: Time of a peer in a round.
        weights: Of the CIFAR ResNet-18, a file of ours: the original. None for the bundled ones.
    """

    cache: Path
    data: Path | None
    limit: int
    threads: int
    rounds: int
    seconds: float
    weights: Path | None = None


@dataclass(frozen=True, kw_only=True)
class _Entered:
    """A peer whose form is loaded and has answered."""

    peer: Peer
    worker: Worker
    versions: dict[str, str]
    size_bytes: int
    parity: Parity


def compete(peers: Sequence[Peer], settings: Settings, track: Track) -> dict[str, Any]:
    """Set everything up that is not there yet, and measure the peers; one that fails is a row with the reason.

    Returns:
        The record, of JSON values.

    Raises:
        MissingExtraError: If PyTorch is not installed here.
        EdgeResNetError: If the weights or the data cannot be read, or our own files cannot be made.
    """
    with needing("export", "the comparison with other runtimes"):
        from edgeresnet.training.weights import bundled_weights, load_weights
    settings.cache.mkdir(parents=True, exist_ok=True)
    # Files that are kept for the next run must not hang on where this package is installed.
    weights = settings.cache / "weights.safetensors"
    shutil.copyfile(settings.weights or bundled_weights(), weights)
    trained = load_weights(weights)
    images, calibration, data_name = _gather_images(settings, trained.spec.input)
    np.save(settings.cache / "images.npy", images)
    np.save(settings.cache / "calibration.npy", calibration)
    materials = Materials(
        weights=weights,
        exports=export_ours(weights, settings.data, settings.cache),
        calibration=settings.cache / "calibration.npy",
        folder=settings.cache / "files",
    )
    expected = trained.logits(images)
    failures: dict[str, str] = {}
    with own_packages() as packages, ExitStack() as workers:
        workshop = Workshop(cache=settings.cache, packages=packages, threads=settings.threads)
        _make_environments(peers, settings.cache, failures, track)
        entered = _enter(peers, materials, workshop, workers, expected, failures, track)
        processes = {each.peer.name: each.worker for each in entered}
        before = asdict(Conditions.now())
        visits = time_in_turns(processes, settings.rounds, settings.seconds, failures, track)
        after = asdict(Conditions.now())
    results = {
        each.peer.name: summarize(each.peer, each.versions, each.size_bytes, each.parity, visits)
        for each in entered
        if each.peer.name in visits
    }
    results |= {name: PeerResult(name=name, versions={}, failure=reason) for name, reason in failures.items()}
    return {
        "schema": SCHEMA,
        "environment": {**describe_environment(), "before": before, "after": after},
        "data": data_name,
        "images": len(images),
        "calibration_images": len(calibration),
        "threads": settings.threads,
        "rounds": settings.rounds,
        "seconds": settings.seconds,
        "peers": [asdict(results[peer.name]) for peer in peers],
    }


def _gather_images(settings: Settings, size: ImageInput) -> tuple[Pixels, Pixels, str]:
    """Images to answer, images to calibrate with, and the name of the data."""
    if settings.data is None:
        return synthetic_images(size, settings.limit), synthetic_images(size, CALIBRATION_IMAGES, seed=1), SYNTHETIC_NAME
    test = read_split(settings.data, "test", size=size, limit=settings.limit)
    return test.images, read_split(settings.data, "train", size=size, limit=CALIBRATION_IMAGES).images, test.name


def _make_environments(peers: Sequence[Peer], cache: Path, failures: dict[str, str], track: Track) -> None:
    wanted = {name for peer in peers for name in (peer.environment, peer.converter)}
    for environment in track([each for name, each in ENVIRONMENTS.items() if name in wanted], "environments"):
        try:
            make_environment(environment, cache)
        except PeerError as error:
            failures.update({peer.name: str(error) for peer in peers if environment.name in (peer.environment, peer.converter)})


def _enter(
    peers: Sequence[Peer],
    materials: Materials,
    workshop: Workshop,
    workers: ExitStack,
    expected: Logits,
    failures: dict[str, str],
    track: Track,
) -> list[_Entered]:
    entered = []
    for peer in track([peer for peer in peers if peer.name not in failures], "conversions and answers"):
        try:
            files = convert(peer, materials, workshop)
            worker = workers.enter_context(workshop.start(peer.environment, f"run-{peer.key}"))
            environment = ENVIRONMENTS.get(peer.environment)
            versions = worker.ask(
                "load",
                timeout_s=LOAD_TIMEOUT_S,
                runtime=peer.runtime,
                form=peer.form,
                path=str(files[0]),
                images=str(workshop.cache / "images.npy"),
                versions=environment.versions if environment else ("edgeresnet", "onnxruntime"),
            )
            target = workshop.cache / "files" / peer.key / "answers.npy"
            worker.ask("answer", timeout_s=LOAD_TIMEOUT_S, target=str(target))
            parity = _judge(np.load(target), expected)
        except PeerError as error:
            failures[peer.name] = str(error)
            continue
        size_bytes = sum(file.stat().st_size for file in files)
        entered.append(_Entered(peer=peer, worker=worker, versions=versions, size_bytes=size_bytes, parity=parity))
    return entered


def _judge(logits: Logits, expected: Logits) -> Parity:
    if logits.shape != expected.shape:
        raise PeerError(f"its answers have the shape {logits.shape}, not {expected.shape}")
    if not np.isfinite(logits).all():
        raise PeerError("its answers are not all numbers")
    return compare_logits(expected, logits)

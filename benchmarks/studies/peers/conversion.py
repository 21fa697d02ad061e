"""Makes every peer's files, once for the same tools, weights and images."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from benchmarks.studies.peers.environments import Workshop
from benchmarks.studies.peers.materials import Materials
from benchmarks.studies.peers.processes import PeerError
from benchmarks.studies.peers.roster import ENVIRONMENTS, Peer
from edgeresnet.errors import EdgeResNetError
from edgeresnet.files import write_text

TIMEOUT_S: Final = 1800.0
PRECISIONS: Final = ("fp32", "int8", "int8-static")
RUNTIMES: Final = Path(__file__).parent / "runtimes"


def export_ours(weights: Path, data: Path | None, cache: Path) -> Path:
    """Have `edgeresnet export` make this project's files; returns their folder.

    Raises:
        EdgeResNetError: If it fails.
    """
    folder = cache / "exports"
    # The ranges of the static form are those of training images.
    precisions = [precision for precision in PRECISIONS if data is not None or precision != "int8-static"]
    options = [word for precision in precisions for word in ("--precision", precision)]
    options += ["--limit", "1000", "--data", str(data)] if data is not None else []
    key = _fingerprint(options, [weights, *_sources_of_exports()])
    stamp = folder / "key.txt"
    if not (stamp.is_file() and stamp.read_text() == key):
        command = [sys.executable, "-m", "edgeresnet", "export", str(weights), *options, "--output", str(folder)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own command
        if result.returncode:
            raise EdgeResNetError(f"edgeresnet export failed: {result.stderr.strip()}")
        write_text(stamp, key)
    return folder


def convert(peer: Peer, materials: Materials, workshop: Workshop) -> list[Path]:
    """Have a peer's own tools make its files, unless they are there from before.

    Args:
        peer: Who.
        materials: What they are made of; each peer gets a folder of its own in their folder.
        workshop: Where the environment with the tools is.

    Raises:
        PeerError: If they fail.
    """
    own = replace(materials, folder=materials.folder / peer.key)
    sources = [materials.weights, materials.exports / "resnet18-fp32.onnx", materials.calibration, RUNTIMES / f"{peer.runtime}.py"]
    tools = ENVIRONMENTS[peer.converter].requirements if peer.converter in ENVIRONMENTS else ()
    key = _fingerprint([peer.key, *tools], sources)
    stamp = own.folder / "made.json"
    if stamp.is_file() and (made := json.loads(stamp.read_text()))["key"] == key:
        return [Path(file) for file in made["files"]]
    if own.folder.exists():
        shutil.rmtree(own.folder)
    own.folder.mkdir(parents=True)
    given = {name: str(value) for name, value in asdict(own).items()}
    with workshop.start(peer.converter, f"convert-{peer.key}") as worker:
        files = worker.ask("convert", timeout_s=TIMEOUT_S, runtime=peer.runtime, form=peer.form, materials=given)
    missing = [file for file in files if not Path(file).is_file()]
    if missing:
        raise PeerError(f"its tools made no {missing[0]}")
    write_text(stamp, json.dumps({"key": key, "files": files}))
    return [Path(file) for file in files]


def _sources_of_exports() -> list[Path]:
    """Code that an export depends on: benchmarks and exporters do not import each other."""
    root = Path(__file__).parents[3]
    return [file for package in ("exporters", "edgeresnet") for file in sorted((root / package).rglob("*.py"))]


def _fingerprint(words: list[str], files: list[Path]) -> str:
    digest = hashlib.sha256(json.dumps(words).encode())
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()

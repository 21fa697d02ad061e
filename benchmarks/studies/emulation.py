"""Answers of model files on processors that are not at hand: x86 with AVX2 but no VNNI, and two ARM cores.

``python -m benchmarks.studies.emulation FP32.onnx INT8.onnx...``

QEMU's user-mode emulation runs ONNX Runtime's own kernels for these processors, so what they compute need not be guessed; how
fast they do it cannot be told this way. Needs Debian's qemu-user-static, and for ARM also apt, dpkg-deb and pip, with which an
ARM Python is fetched into a folder of its own; nothing is installed.
"""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Final

import click
import numpy as np

from benchmarks.environment import describe_environment
from benchmarks.subjects import OnnxSubject
from edgeresnet.datasets import read_split
from edgeresnet.errors import EdgeResNetError
from edgeresnet.evaluation import Logits, compare_logits, synthetic_images
from edgeresnet.images import Pixels
from edgeresnet.session import Session
from edgeresnet.spec import INPUT_NAME
from edgeresnet.target import Target

# The machine itself.
HERE: Final = "here"
# Processor models of QEMU 7.2.
PROCESSORS: Final[Mapping[str, str | None]] = {
    HERE: None,
    "AVX2 without VNNI": "Haswell",
    "Cortex-A72, no dot product": "cortex-a72",
    "Cortex-A76, dot product": "cortex-a76",
}
DEBIAN_PACKAGES: Final = (
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "libstdc++6", "libgcc-s1", "zlib1g", "libexpat1"),
    *("libffi8", "libssl3", "libbz2-1.0", "liblzma5", "libuuid1", "libcrypt1"),
)
# Later releases crash at import under QEMU 7.2.
ARM_ONNXRUNTIME: Final = "onnxruntime==1.22.1"
CACHE: Final = Path.home() / ".cache" / "edgeresnet" / "arm64"
# Of several threads the first one fetches.
_FETCHING: Final = Lock()

# Runs on the emulated processor: one image at a time, as the runtime does, on one thread, since QEMU's are slow.
SCRIPT: Final = f"""
import sys
import numpy as np
import os
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 4
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
images = np.load(sys.argv[2])
np.save(sys.argv[3], np.concatenate([session.run(None, {{"{INPUT_NAME}": image[None]}})[0] for image in images]))
"""


class EmulationError(EdgeResNetError):
    """What emulation needs is not there, or the emulated program failed."""


@dataclass(frozen=True, kw_only=True)
class Emulated:
    """One file on one processor.

    Attributes:
        model: File name.
        precision: Of its weights.
        processor: A key of ``PROCESSORS``.
        sqnr_db: Of its logits against the FP32 file's on this machine.
        agreement: Share of images with the same top-1 class.
    """

    model: str
    precision: str
    processor: str
    sqnr_db: float
    agreement: float


def run_emulated(model: Path, images: Pixels, processor: str) -> Logits:
    """Logits of a model, image by image, on one of ``PROCESSORS``.

    Raises:
        EmulationError: If QEMU or the ARM Python is missing and cannot be fetched, or the run fails.
    """
    with TemporaryDirectory(prefix="edgeresnet-") as folder:
        script, pixels, logits = (Path(folder) / name for name in ("run.py", "images.npy", "logits.npy"))
        script.write_text(SCRIPT)
        np.save(pixels, images)
        _call([*emulated_python(processor), *map(str, (script, model.resolve(), pixels, logits))])
        result: Logits = np.load(logits)
    return result


def emulated_python(processor: str) -> list[str]:
    """A command that starts a Python on one of ``PROCESSORS``: this one or, for ARM, one that has numpy and ONNX Runtime alone.

    Raises:
        EmulationError: If QEMU or the ARM Python is missing and cannot be fetched.
    """
    cpu = PROCESSORS[processor]
    if cpu is None:
        return [sys.executable]
    if not cpu.startswith("cortex"):
        return [_qemu("x86_64"), "-cpu", cpu, sys.executable]
    with _FETCHING:
        root = _fetch_arm_python()
    qemu = [_qemu("aarch64"), "-cpu", cpu, "-L", str(root), "-E", f"PYTHONPATH={root / 'wheels'}"]
    return [*qemu, str(root / "usr" / "bin" / "python3.11")]


def _qemu(architecture: str) -> str:
    path = shutil.which(f"qemu-{architecture}-static")
    if path is None:
        raise EmulationError(f"qemu-{architecture}-static is not installed; fix: apt install qemu-user-static")
    return path


def _fetch_arm_python() -> Path:
    """An ARM Python with numpy and ONNX Runtime, unpacked into the cache once."""
    if CACHE.is_dir():
        return CACHE
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="arm64-", dir=CACHE.parent) as folder:
        work, root = Path(folder), Path(folder) / "root"
        (work / "status").touch()
        for name in ("lists/partial", "archives/partial"):
            (work / name).mkdir(parents=True)
        settings = {
            "APT::Architecture": "arm64",
            "APT::Architectures": "arm64",
            "Dir::State::status": work / "status",
            "Dir::State::lists": work / "lists",
            "Dir::Cache": work,
            "APT::Sandbox::User": "root",
        }
        apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in settings.items())]
        _call([*apt, "update"], folder=work)
        _call([*apt, "download", *DEBIAN_PACKAGES], folder=work)
        for package in work.glob("*.deb"):
            _call(["dpkg-deb", "-x", str(package), str(root)])
        pip = [sys.executable, "-m", "pip", "download", "-q", "-d", str(work), "--only-binary=:all:", "--python-version=3.11"]
        platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (17, 27, 28)] + ["--platform=manylinux2014_aarch64"]
        _call([*pip, *platforms, "numpy<2.4", ARM_ONNXRUNTIME])
        for wheel in work.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(root / "wheels")
        root.rename(CACHE)
    return CACHE


def _call(command: list[str], folder: Path | None = None) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)  # noqa: S603  # our own commands
    except FileNotFoundError as error:
        raise EmulationError(f"{command[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
        raise EmulationError(f"{Path(command[0]).name} failed: {last}") from error


@click.command()
@click.argument("fp32", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--data", type=click.Path(exists=True, path_type=Path), envvar="EDGERESNET_DATA", help="Images. [default: generated ones]")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Number of images.")
@click.option("--processor", "processors", type=click.Choice(list(PROCESSORS)), multiple=True, default=list(PROCESSORS), help="Repeatable.")
def command(fp32: Path, models: tuple[Path, ...], data: Path | None, limit: int, processors: tuple[str, ...]) -> None:
    """Compare MODELS on emulated processors with FP32 on this one; prints JSON."""
    session = Session(fp32)
    size = session.spec.input
    images = read_split(data, "test", size=size, limit=limit).images if data else synthetic_images(size, limit)
    expected = session.logits(images)
    session.close()
    results = []
    for model in models:
        precision = OnnxSubject.of(model, Target(threads=1)).spec.precision
        for processor in processors:
            try:
                parity = compare_logits(expected, run_emulated(model, images, processor))
            except EmulationError as error:
                raise click.ClickException(str(error)) from error
            results.append(
                Emulated(model=model.name, precision=precision, processor=processor, sqnr_db=parity.sqnr_db, agreement=parity.agreement)
            )
            click.echo(f"{model.name} on {processor}: {parity.sqnr_db:.1f} dB, {parity.agreement:.1%} agreement", err=True)
    record = {"environment": describe_environment(), "images": len(images), "results": [asdict(result) for result in results]}
    click.echo(json.dumps(record, indent=1))


if __name__ == "__main__":
    command()

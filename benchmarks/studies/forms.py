"""The INT8 forms of a network: this project's two, those of ONNX Runtime's own tool, and LiteRT's."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.environment import describe_environment
from benchmarks.studies.litert import LoadedLiteRT, apart, convert
from edgeresnet.errors import DataError
from edgeresnet.evaluation import Logits
from edgeresnet.files import write_text
from edgeresnet.images import Pixels
from edgeresnet.providers import load_onnxruntime, session_options
from edgeresnet.timing import time_calls

# Of a record, and what a table calls them.
FORMS: Final = {
    "dynamic": "quantize --dynamic",
    "static": "quantize --static",
    "stock-dynamic": "stock dynamic",
    "stock-static": "stock static",
    "litert-fp32": "LiteRT FP32",
    "litert-dynamic": "LiteRT dynamic",
    "litert-static": "LiteRT full INT8",
}
# Of those, what `edgeresnet quantize` makes.
OUR_FORMS: Final[tuple[str, ...]] = ("dynamic", "static")
_LITERT_FORMS: Final = {"fp32": "litert-fp32", "int8": "litert-dynamic", "int8-static": "litert-static"}
# LiteRT's calibration keeps every value of every layer.
LITERT_CALIBRATION_IMAGES: Final = 24
# All forms in turns, for so long each: what else the machine does meets all alike.
ROUNDS: Final = 9
BURST_SECONDS: Final = 0.4

T = TypeVar("T")
# Of a study's command.
record_option = click.option(
    "--record", type=click.Path(dir_okay=False, path_type=Path), help="Write it there, after every network; others that it has stay."
)
Call = Callable[[NDArray[Any]], Logits]
# Builds a module in evaluation mode and an example of what it takes.
Build = Callable[[], tuple[Any, Any]]


@dataclass(frozen=True)
class Made:
    """A file, and what `edgeresnet quantize` told of its layers if it made it."""

    path: Path
    layers: tuple[Mapping[str, Any], ...] = ()

    @property
    def layers_in_int8(self) -> int | None:
        """How many; None if another tool made it."""
        return sum(not layer["reason"] for layer in self.layers) if self.layers else None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How a file ran.

    Attributes:
        ms: Of a call with one image: the median of ``ROUNDS`` medians, all forms in turns.
        speedup: Median over the rounds of FP32's time over this one's.
        logits: For each image.
    """

    ms: float
    speedup: float
    logits: Logits


@contextmanager
def _on_one_core() -> Iterator[None]:
    """Keep this thread, and what it starts, on one core, and then let it go: the process may have other work to do."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@_on_one_core()
def make_forms(fp32: Path, pictures: Pixels, values: NDArray[Any], build: Build, options: Sequence[str] = ()) -> dict[str, Made]:
    """Make all forms that can be made, beside an FP32 file; why one cannot is told on stderr.

    Args:
        fp32: In ONNX form.
        pictures: uint8 (N, height, width, 3): what `edgeresnet quantize` calibrates on and proves with.
        values: The same images as values of the file's input, for the other tools to calibrate on.
        build: The network, for LiteRT's converter in another process; skipped where LiteRT is not installed.
        options: Of `edgeresnet quantize`.
    """
    folder, stem = fp32.parent / "pictures", fp32.stem
    folder.mkdir()
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / f"{number:04}.png")
    made: dict[str, Made] = {}
    for form in OUR_FORMS:
        target = fp32.with_name(f"{stem}-{form}.onnx")
        layers = _quantize(fp32, target, f"--{form}", "--images", str(folder), *options)
        if layers is not None:
            made[form] = Made(target, layers)
    for form, quantize in (("stock-dynamic", _quantize_stock), ("stock-static", partial(_quantize_stock_static, values=values))):
        target = fp32.with_name(f"{stem}-{form}.onnx")
        quantize(fp32, target)
        made[form] = Made(target)
    if find_spec("litert_torch") is not None:
        with apart() as pool:
            try:
                files = pool.submit(_convert, build, fp32.parent, stem, values[:LITERT_CALIBRATION_IMAGES]).result()
                made |= {_LITERT_FORMS[precision]: Made(path) for precision, path in files.items()}
            except Exception as error:  # noqa: BLE001  # its tools may raise anything
                click.echo(f"{stem}: LiteRT cannot convert it ({type(error).__name__}: {error})", err=True)
    return made


@_on_one_core()
def measure_forms(fp32: Path, made: Mapping[str, Made], images: NDArray[Any]) -> tuple[Measured, dict[str, Measured]]:
    """Time all forms in turns on one image, and have them answer all images one at a time.

    Where a form takes one scale for all that it is given, neighbours must not matter.

    Args:
        fp32: In ONNX form.
        made: Of it.
        images: Values of their input.

    Returns:
        What was measured of FP32, and of each form.
    """
    calls = {"fp32": _load(fp32)} | {form: _load(file.path) for form, file in made.items()}
    times = _time_in_turns(calls, images[:1])
    measured = {
        form: Measured(
            ms=statistics.median(times[form]),
            speedup=statistics.median(a / b for a, b in zip(times["fp32"], times[form], strict=True)),
            logits=np.concatenate([call(image[None]) for image in images]),
        )
        for form, call in calls.items()
    }
    return measured.pop("fp32"), measured


def run_study(names: Iterable[T], measure: Callable[[T], Any], record: Path | None, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Measure one network after another, and write the record after each; files are made and timed on one core.

    Args:
        names: Of the networks.
        measure: Gives a dataclass that has its ``network``.
        record: File to write, if any. What it has of other networks stays in it.
        facts: What else it says.

    Raises:
        DataError: If the record that is there was taken on another machine, with other software, or of something else.
    """
    with _on_one_core():
        head = {"environment": describe_environment(), **facts, "threads": 1}
    results = _read_results(record, head) if record is not None and record.exists() else {}
    for name in names:
        result = asdict(measure(name))
        results[result["network"]] = result
        if record is not None:
            write_text(record, json.dumps({**head, "results": [*results.values()]}, indent=1) + "\n")
    return [*results.values()]


def _read_results(record: Path, head: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a record has, by network, if it begins as this one does."""
    found = json.loads(record.read_text(encoding="utf-8"))
    differing = [name for name, value in _flat(head).items() if _flat(found).get(name) != value]
    if differing:
        raise DataError(f"{record}: its networks were measured with another {differing[0]}; fix: write to a new file")
    return {result["network"]: result for result in found["results"]}


def _flat(head: Mapping[str, Any]) -> dict[str, Any]:
    return {**head, **head["environment"], "environment": None}


def _load(path: Path) -> Call:
    """What a file answers, on one thread."""
    if path.suffix == ".tflite":
        return LoadedLiteRT(path, 1).logits
    session = load_onnxruntime().InferenceSession(path, session_options(1), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda values: session.run(None, {name: values})[0]


def _time_in_turns(calls: Mapping[str, Call], image: NDArray[Any]) -> dict[str, list[float]]:
    """Median milliseconds of a call of each form in each round."""
    times: dict[str, list[float]] = {form: [] for form in calls}
    for _ in range(ROUNDS):
        for form, call in calls.items():
            times[form].append(statistics.median(time_calls(partial(call, image), seconds=BURST_SECONDS, least=3)))
    return times


def _quantize(source: Path, target: Path, *options: str) -> tuple[Mapping[str, Any], ...] | None:
    """What became of each layer; None, and a line on stderr, if `edgeresnet quantize` refuses the network."""
    command = [sys.executable, "-m", "edgeresnet", "quantize", str(source), "--output", str(target), "--format", "json", *options]
    quantized = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own command
    if quantized.returncode:
        click.echo(quantized.stderr.strip(), err=True)
        return None
    return tuple(json.loads(quantized.stdout)["layers"])


def _quantize_stock(source: Path, target: Path) -> None:
    load_onnxruntime()
    from onnxruntime.quantization.quant_utils import QuantType
    from onnxruntime.quantization.quantize import quantize_dynamic

    quantize_dynamic(source, target, weight_type=QuantType.QUInt8)


def _quantize_stock_static(source: Path, target: Path, *, values: NDArray[Any]) -> None:
    """As its documentation advises for x86: uint8 activations, int8 weights with a scale per channel."""
    name = load_onnxruntime().InferenceSession(source, session_options(1), providers=["CPUExecutionProvider"]).get_inputs()[0].name
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.quant_utils import QuantType
    from onnxruntime.quantization.quantize import quantize_static

    class Reader(CalibrationDataReader):
        """Images, one at a time."""

        def __init__(self) -> None:
            self._feeds = iter([{name: image[None]} for image in values])

        def get_next(self) -> Any:
            return next(self._feeds, None)

    quantize_static(source, target, Reader(), activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True)


def _convert(build: Build, folder: Path, stem: str, values: NDArray[Any]) -> dict[str, Path]:
    module, image = build()
    return convert(module, image, folder, stem, [value[None] for value in values])

"""`edgeresnet quantize` on other networks: torchvision's, with random weights, one thread, beside ONNX Runtime's own forms and LiteRT's.

``pip install 'edgeresnet[litert,export]'``, then ``python -m benchmarks.studies.networks --record benchmarks/records/networks.json``.
Where LiteRT is not installed its columns stay empty.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.environment import describe_environment
from benchmarks.report.markdown import write_table
from benchmarks.studies.litert import LoadedLiteRT, apart, convert
from edgeresnet.evaluation import Logits, compare_logits, synthetic_images
from edgeresnet.files import write_text
from edgeresnet.providers import load_onnxruntime, session_options
from edgeresnet.timing import time_calls

SIZE: Final = 224
IMAGES: Final = 8
# For the ranges of the static forms, and for the proof; none of them is among the images that the answers are compared on.
FOLDER_IMAGES: Final = 96
FOLDER_SEED: Final = 1
# LiteRT's calibration keeps every value of every layer.
LITERT_CALIBRATION_IMAGES: Final = 24
# All forms in turns, for so long each: what else the machine does meets all alike.
ROUNDS: Final = 9
BURST_SECONDS: Final = 0.4
NETWORKS: Final = (
    *("resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x1_0"),
    *("squeezenet1_1", "densenet121", "regnet_y_400mf", "googlenet", "convnext_tiny"),
)
# Of a record, and what a table calls them.
FORMS: Final = {
    "dynamic": "`quantize --dynamic`",
    "static": "`quantize --static`",
    "stock-dynamic": "stock dynamic",
    "stock-static": "stock static",
    "litert-fp32": "LiteRT FP32",
    "litert-dynamic": "LiteRT dynamic",
    "litert-static": "LiteRT full INT8",
}
LITERT_FORMS: Final = {"fp32": "litert-fp32", "int8": "litert-dynamic", "int8-static": "litert-static"}

Call = Callable[[NDArray[np.float32]], Logits]


@dataclass(frozen=True, kw_only=True)
class FormResult:
    """One form of a network.

    Attributes:
        ms: Time of a call with one image: the median of ``ROUNDS`` medians, all forms in turns.
        speedup: Median over the rounds of the time of ONNX Runtime's FP32 over this one's.
        sqnr_db: Of its outputs against FP32.
        size_mb: Of its file.
        layers_in_int8: How many layers `edgeresnet quantize` put into INT8; None for forms that it did not make.
    """

    ms: float
    speedup: float
    sqnr_db: float
    size_mb: float
    layers_in_int8: int | None


@dataclass(frozen=True, kw_only=True)
class NetworkResult:
    """One network.

    Attributes:
        network: torchvision's name.
        layers: Number of its layers with weights.
        fp32_ms: Of its FP32 file in ONNX Runtime, as for the forms.
        forms: By name in ``FORMS``, those that could be made.
    """

    network: str
    layers: int
    fp32_ms: float
    forms: dict[str, FormResult]


def measure_network(name: str) -> NetworkResult:
    """Build, export and quantize a network, and hold all quantized forms against it."""
    images = _normalize(synthetic_images(SIZE, IMAGES))
    seen = synthetic_images(SIZE, FOLDER_IMAGES, seed=FOLDER_SEED)
    with TemporaryDirectory(prefix="edgeresnet-") as folder:
        files = {form: Path(folder) / f"{name}-{form}.onnx" for form in ("fp32", "dynamic", "static", "stock-dynamic", "stock-static")}
        _export(name, images, files["fp32"])
        _quantize_stock(files["fp32"], files["stock-dynamic"])
        _quantize_stock_static(files["fp32"], files["stock-static"], _normalize(seen))
        pictures = Path(folder) / "images"
        pictures.mkdir()
        for number, pixels in enumerate(seen):
            Image.fromarray(pixels).save(pictures / f"{number:02}.png")
        reports = {form: _quantize(files["fp32"], files[form], f"--{form}", "--images", str(pictures)) for form in ("dynamic", "static")}
        if find_spec("litert_torch") is not None:
            files |= _convert_for_litert(name, images, _normalize(seen[:LITERT_CALIBRATION_IMAGES]), Path(folder))
        files = {form: path for form, path in files.items() if path.exists()}
        calls = {form: _load(path) for form, path in files.items()}
        times = _time_in_turns(calls, images[:1])
        answers = {form: np.concatenate([call(image[None]) for image in images]) for form, call in calls.items()}
        sizes = {form: path.stat().st_size / 1e6 for form, path in files.items()}
    counts = {form: sum(not layer["reason"] for layer in layers) for form, layers in reports.items() if layers is not None}
    forms = {
        form: FormResult(
            ms=statistics.median(times[form]),
            speedup=statistics.median(a / b for a, b in zip(times["fp32"], times[form], strict=True)),
            sqnr_db=compare_logits(answers["fp32"], answers[form]).sqnr_db,
            size_mb=sizes[form],
            layers_in_int8=counts.get(form),
        )
        for form in FORMS
        if form in files
    }
    layers = max(len(layers or []) for layers in reports.values())
    return NetworkResult(network=name, layers=layers, fp32_ms=statistics.median(times["fp32"]), forms=forms)


def _normalize(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return ((pixels.transpose(0, 3, 1, 2) / 255 - 0.45) / 0.225).astype(np.float32)


def _quantize(source: Path, target: Path, *options: str) -> list[dict[str, Any]] | None:
    """What became of each layer; None, and a line on stderr, if `edgeresnet quantize` refuses the network."""
    command = [sys.executable, "-m", "edgeresnet", "quantize", str(source), "--output", str(target), "--format", "json"]
    # Of random weights some units are noise in every form: what is measured is the form, not the budget.
    command += ["--min-db", "-1000", "--pixel-range", "normalized", *options]
    quantized = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own command
    if quantized.returncode:
        click.echo(quantized.stderr.strip(), err=True)
        return None
    layers: list[dict[str, Any]] = json.loads(quantized.stdout)["layers"]
    return layers


def _convert_for_litert(name: str, images: NDArray[np.float32], calibration: NDArray[np.float32], folder: Path) -> dict[str, Path]:
    with apart() as pool:
        try:
            files = pool.submit(_convert_network, name, images, calibration, folder).result()
        except Exception as error:  # noqa: BLE001  # its tools may raise anything
            click.echo(f"{name}: LiteRT cannot convert it ({type(error).__name__}: {error})", err=True)
            return {}
    return {LITERT_FORMS[precision]: path for precision, path in files.items()}


def _convert_network(name: str, images: NDArray[np.float32], calibration: NDArray[np.float32], folder: Path) -> dict[str, Path]:
    import torch

    return convert(_build(name, images), torch.from_numpy(images[:1]), folder, name, [image[None] for image in calibration])


def _load(path: Path) -> Call:
    """What a file answers, on one thread."""
    if path.suffix == ".tflite":
        return LoadedLiteRT(path, 1).logits
    session = load_onnxruntime().InferenceSession(path, session_options(1), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda values: session.run(None, {name: values})[0]


def _time_in_turns(calls: Mapping[str, Call], image: NDArray[np.float32]) -> dict[str, list[float]]:
    """Median milliseconds of a call of each form in each round."""
    times: dict[str, list[float]] = {form: [] for form in calls}
    for _ in range(ROUNDS):
        for form, call in calls.items():
            times[form].append(statistics.median(time_calls(partial(call, image), seconds=BURST_SECONDS, least=3)))
    return times


def _export(name: str, images: NDArray[np.float32], path: Path) -> None:
    import torch

    torch.onnx.export(_build(name, images), (torch.from_numpy(images[:1]),), path, dynamo=True, external_data=False, verbose=False)


def _build(name: str, images: NDArray[np.float32]) -> Any:
    """Random weights, and BatchNorm statistics that belong to them: with the initial ones activations vanish or explode."""
    import torch
    from torchvision.models._api import get_model

    torch.manual_seed(0)
    network = get_model(name, weights=None)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        network.train()(torch.from_numpy(images))
    return network.eval()


def _quantize_stock(source: Path, target: Path) -> None:
    load_onnxruntime()
    from onnxruntime.quantization.quant_utils import QuantType
    from onnxruntime.quantization.quantize import quantize_dynamic

    quantize_dynamic(source, target, weight_type=QuantType.QUInt8)


def _quantize_stock_static(source: Path, target: Path, images: NDArray[np.float32]) -> None:
    """As its documentation advises for x86: uint8 activations, int8 weights with a scale per channel."""
    name = load_onnxruntime().InferenceSession(source, session_options(1), providers=["CPUExecutionProvider"]).get_inputs()[0].name
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.quant_utils import QuantType
    from onnxruntime.quantization.quantize import quantize_static

    class Reader(CalibrationDataReader):
        """Images, one at a time."""

        def __init__(self) -> None:
            self._feeds = iter([{name: image[None]} for image in images])

        def get_next(self) -> Any:
            return next(self._feeds, None)

    quantize_static(source, target, Reader(), activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True)


def _describe(result: NetworkResult) -> str:
    return f"{result.network}: {'; '.join(f'{form} {found.speedup:.2f}x, {found.sqnr_db:.1f} dB' for form, found in result.forms.items())}"


def tabulate(results: Sequence[Mapping[str, Any]]) -> str:
    """A record's results as a Markdown table: speed against FP32 and SQNR of each form, and how many layers ours have in INT8."""
    headings = ("network", "FP32, ms", *FORMS.values())
    rows = (
        (result["network"], f"{result['fp32_ms']:.1f}", *(_cell(result["forms"].get(form), result["layers"]) for form in FORMS))
        for result in results
    )
    return write_table(headings, rows, numbers=range(1, len(headings)))


def _cell(form: Mapping[str, Any] | None, layers: int) -> str:
    if form is None:
        return "-"
    count = "" if form["layers_in_int8"] is None else f", {form['layers_in_int8']} of {layers}"
    return f"{form['speedup']:.2f}x, {form['sqnr_db']:.0f} dB{count}"


@click.command()
@click.option("--network", "networks", multiple=True, default=NETWORKS, show_default=True, help="torchvision's name; repeatable.")
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), help="Write the record there, after every network.")
def command(networks: tuple[str, ...], record: Path | None) -> None:
    """Quantize NETWORKS and compare all forms with FP32; prints a Markdown table. Takes two or three minutes a network."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    results: list[dict[str, Any]] = []
    for name in networks:
        result = measure_network(name)
        click.echo(_describe(result), err=True)
        results.append(asdict(result))
        if record is not None:
            found = {"environment": describe_environment(), "size": SIZE, "threads": 1, "results": results}
            write_text(record, json.dumps(found, indent=1) + "\n")
    click.echo(tabulate(results), nl=False)


if __name__ == "__main__":
    command()

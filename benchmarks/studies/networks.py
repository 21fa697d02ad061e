"""`edgeresnet quantize` on other networks: torchvision's, with random weights, one thread, beside ONNX Runtime's own forms.

``python -m benchmarks.studies.networks --record benchmarks/records/networks.json``
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.environment import describe_environment
from benchmarks.report.markdown import write_table
from edgeresnet.evaluation import Logits, compare_logits, synthetic_images
from edgeresnet.files import write_text
from edgeresnet.providers import load_onnxruntime, session_options
from edgeresnet.timing import time_calls

SIZE: Final = 224
IMAGES: Final = 8
# For the ranges of the static forms, and for the proof; none of them is among the images that the answers are compared on.
FOLDER_IMAGES: Final = 96
FOLDER_SEED: Final = 1
# All forms in turns, for so long each: what else the machine does meets all alike.
ROUNDS: Final = 9
BURST_SECONDS: Final = 0.4
NETWORKS: Final = (
    *("resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x1_0"),
    *("squeezenet1_1", "densenet121", "regnet_y_400mf", "googlenet", "convnext_tiny"),
)


@dataclass(frozen=True, kw_only=True)
class NetworkResult:
    """One network. Of a form that `edgeresnet quantize` refuses, all is None.

    Attributes:
        network: torchvision's name.
        layers: Number of its layers with weights.
        fp32_ms: Time of a call with one image: the median of ``ROUNDS`` medians, all forms in turns.
        int8_ms: Of the dynamic form.
        speedup: Median over the rounds of the first over the second.
        int8_db: SQNR of the dynamic form's outputs against FP32.
        size_mb: Of the dynamic form.
        layers_in_int8: How many of the layers.
        static_ms: Of the static form.
        static_speedup: As for the dynamic one.
        static_db: Likewise.
        static_mb: Likewise.
        static_layers_in_int8: Likewise.
        stock_ms: Of ONNX Runtime's own dynamic quantization.
        stock_speedup: Likewise.
        stock_db: Likewise.
        stock_static_ms: Of its own static quantization, with the same images.
        stock_static_speedup: Likewise.
        stock_static_db: Likewise.
    """

    network: str
    layers: int
    fp32_ms: float
    int8_ms: float | None
    speedup: float | None
    int8_db: float | None
    size_mb: float | None
    layers_in_int8: int | None
    static_ms: float | None
    static_speedup: float | None
    static_db: float | None
    static_mb: float | None
    static_layers_in_int8: int | None
    stock_ms: float
    stock_speedup: float
    stock_db: float
    stock_static_ms: float
    stock_static_speedup: float
    stock_static_db: float


def measure_network(name: str) -> NetworkResult:
    """Build, export and quantize a network, and hold all quantized forms against it."""
    images = _normalize(synthetic_images(SIZE, IMAGES))
    seen = synthetic_images(SIZE, FOLDER_IMAGES, seed=FOLDER_SEED)
    with TemporaryDirectory(prefix="edgeresnet-") as folder:
        forms = {form: Path(folder) / f"{name}-{form}.onnx" for form in ("fp32", "int8", "static", "stock", "stock_static")}
        _export(name, images, forms["fp32"])
        _quantize_stock(forms["fp32"], forms["stock"])
        _quantize_stock_static(forms["fp32"], forms["stock_static"], _normalize(seen))
        pictures = Path(folder) / "images"
        pictures.mkdir()
        for number, pixels in enumerate(seen):
            Image.fromarray(pixels).save(pictures / f"{number:02}.png")
        reports = {
            "int8": _quantize(forms["fp32"], forms["int8"]),
            "static": _quantize(forms["fp32"], forms["static"], "--static", "--images", str(pictures)),
        }
        made = {form: path for form, path in forms.items() if path.exists()}
        times = _time_in_turns(made, images[:1])
        expected = _run(forms["fp32"], images)
        found = {form: compare_logits(expected, _run(path, images)).sqnr_db for form, path in made.items()}
        speedups = {form: statistics.median(a / b for a, b in zip(times["fp32"], times[form], strict=True)) for form in made}
        sizes = {form: path.stat().st_size / 1e6 for form, path in made.items()}
    medians = {form: statistics.median(values) for form, values in times.items()}
    counts = {form: sum(not layer["reason"] for layer in layers) for form, layers in reports.items() if layers is not None}
    return NetworkResult(
        network=name,
        layers=max(len(layers or []) for layers in reports.values()),
        fp32_ms=medians["fp32"],
        int8_ms=medians.get("int8"),
        speedup=speedups.get("int8"),
        int8_db=found.get("int8"),
        size_mb=sizes.get("int8"),
        layers_in_int8=counts.get("int8"),
        static_ms=medians.get("static"),
        static_speedup=speedups.get("static"),
        static_db=found.get("static"),
        static_mb=sizes.get("static"),
        static_layers_in_int8=counts.get("static"),
        stock_ms=medians["stock"],
        stock_speedup=speedups["stock"],
        stock_db=found["stock"],
        stock_static_ms=medians["stock_static"],
        stock_static_speedup=speedups["stock_static"],
        stock_static_db=found["stock_static"],
    )


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


def _time_in_turns(models: Mapping[str, Path], image: NDArray[np.float32]) -> dict[str, list[float]]:
    """Median milliseconds of a call of each model in each round."""
    calls = {}
    for form, path in models.items():
        session = load_onnxruntime().InferenceSession(path, session_options(1), providers=["CPUExecutionProvider"])
        calls[form] = partial(session.run, None, {session.get_inputs()[0].name: image})
    times: dict[str, list[float]] = {form: [] for form in models}
    for _ in range(ROUNDS):
        for form, call in calls.items():
            times[form].append(statistics.median(time_calls(call, seconds=BURST_SECONDS, least=3)))
    return times


def _export(name: str, images: NDArray[np.float32], path: Path) -> None:
    """Random weights, and BatchNorm statistics that belong to them: with the initial ones activations vanish or explode."""
    import torch
    from torchvision.models._api import get_model

    torch.manual_seed(0)
    network = get_model(name, weights=None)
    batch = torch.from_numpy(images)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        network.train()(batch)
    torch.onnx.export(network.eval(), (batch[:1],), path, dynamo=True, external_data=False, verbose=False)


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


def _run(model: Path, images: NDArray[np.float32]) -> Logits:
    session = load_onnxruntime().InferenceSession(model, session_options(1), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in images])


def _describe(result: NetworkResult) -> str:
    forms = {
        "dynamic": (result.speedup, result.int8_db),
        "static": (result.static_speedup, result.static_db),
        "stock dynamic": (result.stock_speedup, result.stock_db),
        "stock static": (result.stock_static_speedup, result.stock_static_db),
    }
    told = (f"{form} " + ("refused" if speedup is None else f"{speedup:.2f}x, {db:.1f} dB") for form, (speedup, db) in forms.items())
    return f"{result.network}: {'; '.join(told)}"


def tabulate(results: Sequence[Mapping[str, Any]]) -> str:
    """A record's results as a Markdown table: speed against FP32 and SQNR of each form, and how many layers are in INT8."""
    headings = ("network", "FP32, ms", "`quantize`", "layers", "`quantize --static`", "layers", "stock dynamic", "stock static")
    rows = (
        (
            result["network"],
            f"{result['fp32_ms']:.1f}",
            _cell(result["speedup"], result["int8_db"]),
            _count(result["layers_in_int8"], result["layers"]),
            _cell(result["static_speedup"], result["static_db"]),
            _count(result["static_layers_in_int8"], result["layers"]),
            _cell(result["stock_speedup"], result["stock_db"]),
            _cell(result["stock_static_speedup"], result["stock_static_db"]),
        )
        for result in results
    )
    return write_table(headings, rows, numbers=range(1, len(headings)))


def _cell(speedup: float | None, db: float | None) -> str:
    return f"{speedup:.2f}x, {db:.0f} dB" if speedup is not None and db is not None else "refused"


def _count(layers_in_int8: int | None, layers: int) -> str:
    return f"{layers_in_int8} of {layers}" if layers_in_int8 is not None else "-"


@click.command()
@click.option("--network", "networks", multiple=True, default=NETWORKS, show_default=True, help="torchvision's name; repeatable.")
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), help="Write the record there, after every network.")
def command(networks: tuple[str, ...], record: Path | None) -> None:
    """Quantize NETWORKS and compare all forms with FP32; prints a Markdown table. Takes about a minute a network."""
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

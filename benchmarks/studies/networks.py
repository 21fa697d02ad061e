"""`edgeresnet quantize` on other networks: torchvision's, with random weights, one thread, beside ONNX Runtime's own dynamic form.

``python -m benchmarks.studies.networks --network resnet50``
"""

import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.environment import describe_environment
from edgeresnet.evaluation import Logits, compare_logits, synthetic_images
from edgeresnet.providers import load_onnxruntime, session_options

SIZE: Final = 224
IMAGES: Final = 8
# Each times both forms in turns for three seconds: too little on a machine that is not quiet.
ROUNDS: Final = 5
NETWORKS: Final = ("resnet34", "resnet50", "densenet121", "googlenet", "regnet_y_400mf", "mobilenet_v2", "squeezenet1_1")


@dataclass(frozen=True, kw_only=True)
class NetworkResult:
    """One network.

    Attributes:
        network: torchvision's name.
        fp32_ms: Time of a call with one image: the median of ``ROUNDS`` medians of the command's.
        int8_ms: Of the quantized model, timed in turns with it.
        speedup: The first over the second.
        int8_db: SQNR of the quantized model's outputs against FP32.
        stock_db: Of ONNX Runtime's own dynamic quantization.
        size_mb: Of the quantized model.
        layers_in_int8: How many of its layers with weights.
        layers: Number of those.
    """

    network: str
    fp32_ms: float
    int8_ms: float
    speedup: float
    int8_db: float
    stock_db: float
    size_mb: float
    layers_in_int8: int
    layers: int


def measure_network(name: str) -> NetworkResult:
    """Build, export and quantize a network, and hold both quantized forms against it.

    Raises:
        click.ClickException: If `edgeresnet quantize` refuses it.
    """
    pixels = synthetic_images(SIZE, IMAGES).transpose(0, 3, 1, 2)
    images = ((pixels / 255 - 0.45) / 0.225).astype(np.float32)
    with TemporaryDirectory(prefix="edgeresnet-") as folder:
        fp32, int8, stock = (Path(folder) / f"{name}-{form}.onnx" for form in ("fp32", "int8", "stock"))
        _export(name, images, fp32)
        _quantize_stock(fp32, stock)
        command = [sys.executable, "-m", "edgeresnet", "quantize", str(fp32), "--output", str(int8), "--min-db", "0", "--format", "json"]
        reports = []
        for _ in range(ROUNDS):
            quantized = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own command
            if quantized.returncode:
                raise click.ClickException(f"{name}: {quantized.stderr.strip()}")
            reports.append(json.loads(quantized.stdout))
        fp32_ms, int8_ms = (statistics.median(report[key] for report in reports) for key in ("fp32_ms", "int8_ms"))
        layers = reports[0]["layers"]
        expected = _run(fp32, images)
        return NetworkResult(
            network=name,
            fp32_ms=fp32_ms,
            int8_ms=int8_ms,
            speedup=fp32_ms / int8_ms,
            int8_db=compare_logits(expected, _run(int8, images)).sqnr_db,
            stock_db=compare_logits(expected, _run(stock, images)).sqnr_db,
            size_mb=int8.stat().st_size / 1e6,
            layers_in_int8=sum(not layer["reason"] for layer in layers),
            layers=len(layers),
        )


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


def _run(model: Path, images: NDArray[np.float32]) -> Logits:
    session = load_onnxruntime().InferenceSession(model, session_options(1), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in images])


@click.command()
@click.option("--network", "networks", multiple=True, default=NETWORKS, show_default=True, help="torchvision's name; repeatable.")
def command(networks: tuple[str, ...]) -> None:
    """Quantize NETWORKS and compare them with their FP32 form; prints JSON."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    results = []
    for name in networks:
        results.append(measure_network(name))
        click.echo(f"{name}: {results[-1].speedup:.2f}x, {results[-1].int8_db:.1f} dB (stock {results[-1].stock_db:.1f})", err=True)
    record = {"environment": describe_environment(), "size": SIZE, "threads": 1, "results": [asdict(result) for result in results]}
    click.echo(json.dumps(record, indent=1))


if __name__ == "__main__":
    command()

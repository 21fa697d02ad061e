"""`edgeresnet quantize` on other networks: torchvision's, with random weights, one thread, beside ONNX Runtime's own forms and LiteRT's.

``pip install 'edgeresnet[litert,export]'``, then ``python -m benchmarks.studies.networks --record benchmarks/records/networks.json``.
Where LiteRT is not installed its columns stay empty.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.report.markdown import write_table
from benchmarks.studies.forms import FORMS, make_forms, measure_forms, record_option, run_study
from edgeresnet.errors import EdgeResNetError
from edgeresnet.evaluation import compare_logits, synthetic_images

SIZE: Final = 224
IMAGES: Final = 8
# For the ranges of the static forms, and for the proof; none of them is among the images that the answers are compared on.
FOLDER_IMAGES: Final = 96
FOLDER_SEED: Final = 1
NETWORKS: Final = (
    *("resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x1_0"),
    *("squeezenet1_1", "densenet121", "regnet_y_400mf", "googlenet", "convnext_tiny"),
)
# Of random weights some units are noise in every form: what is measured is the form, not the budget.
OPTIONS: Final = ("--min-db", "-1000", "--pixel-range", "normalized")


@dataclass(frozen=True, kw_only=True)
class FormResult:
    """One form of a network.

    Attributes:
        ms: Time of a call with one image, all forms in turns.
        speedup: Over ONNX Runtime's FP32.
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
        fp32 = Path(folder) / f"{name}.onnx"
        _export(name, images, fp32)
        made = make_forms(fp32, seen, _normalize(seen), partial(_build, name, images), OPTIONS)
        original, measured = measure_forms(fp32, made, images)
        forms = {
            form: FormResult(
                ms=found.ms,
                speedup=found.speedup,
                sqnr_db=compare_logits(original.logits, found.logits).sqnr_db,
                size_mb=made[form].path.stat().st_size / 1e6,
                layers_in_int8=made[form].layers_in_int8,
            )
            for form, found in measured.items()
        }
    return NetworkResult(network=name, layers=max(len(file.layers) for file in made.values()), fp32_ms=original.ms, forms=forms)


def _normalize(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return ((pixels.transpose(0, 3, 1, 2) / 255 - 0.45) / 0.225).astype(np.float32)


def _export(name: str, images: NDArray[np.float32], path: Path) -> None:
    import torch

    module, image = _build(name, images)
    torch.onnx.export(module, (image,), path, dynamo=True, external_data=False, verbose=False)


def _build(name: str, images: NDArray[np.float32]) -> tuple[Any, Any]:
    """Random weights, and BatchNorm statistics that belong to them: with the initial ones activations vanish or explode."""
    import torch
    from torchvision.models._api import get_model

    torch.manual_seed(0)
    network = get_model(name, weights=None)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    batch = torch.from_numpy(images)
    with torch.no_grad():
        network.train()(batch)
    return network.eval(), batch[:1]


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
@record_option
def command(networks: tuple[str, ...], record: Path | None) -> None:
    """Quantize NETWORKS and compare all forms with FP32; prints a Markdown table. Takes two or three minutes a network."""

    def measure(name: str) -> NetworkResult:
        result = measure_network(name)
        click.echo(_describe(result), err=True)
        return result

    try:
        results = run_study(networks, measure, record, {"size": SIZE})
    except EdgeResNetError as error:
        raise click.ClickException(str(error)) from error
    click.echo(tabulate(results), nl=False)


if __name__ == "__main__":
    # Builders are sent to another process, which knows them under the module's own name alone.
    from benchmarks.studies.networks import command as run

    run()

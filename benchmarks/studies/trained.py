"""What INT8 costs trained networks in accuracy: every form's top-1 on a test set, beside FP32.

``pip install 'edgeresnet[litert,export]'``; ``edgeresnet train --recipe benchmarks/records/trained/mobilenet_v2/config.json --network
torchvision:mobilenet_v2 --image-size 64 --output runs/mobilenet_v2``; then ``python -m benchmarks.studies.trained
runs/mobilenet_v2/weights.safetensors --emulated 500 --record benchmarks/records/trained.json``. Both take CIFAR-10 from ``--data`` or
``EDGERESNET_DATA``.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import click
import numpy as np

from benchmarks.report.markdown import write_table
from benchmarks.studies.emulation import HERE, PROCESSORS, run_emulated
from benchmarks.studies.forms import FORMS, OUR_FORMS, make_forms, measure_forms, record_option, run_study
from edgeresnet.datasets import LabelledImages, read_split, take_evenly
from edgeresnet.errors import EdgeResNetError
from edgeresnet.evaluation import compare_logits, match_classes, top1
from edgeresnet.machine import available_cores
from edgeresnet.training.weights import load_weights

# Training images, of which `edgeresnet quantize --static` takes two thirds for its ranges and one for its proof.
CALIBRATION_IMAGES: Final = 150
EMULATED: Final = tuple(processor for processor in PROCESSORS if processor != HERE)


@dataclass(frozen=True, kw_only=True)
class EmulatedAccuracy:
    """What a form answers on an emulated processor, beside what it answers here, on some of the test images.

    Attributes:
        points: Percentage points of top-1 that it gains or loses there.
        agreement: Fraction of the images with the same top-1 class.
        sqnr_db: Of the logits; None where they are the same to the bit.
    """

    points: float
    agreement: float
    sqnr_db: float | None


@dataclass(frozen=True, kw_only=True)
class FormAccuracy:
    """One form of a trained network.

    Attributes:
        top1: On the test images, given one at a time.
        sqnr_db: Of its logits on them against FP32's.
        agreement: Fraction of them with FP32's top-1 class.
        speedup: Over FP32 in ONNX Runtime, one thread, all forms in turns.
        layers_in_int8: How many layers `edgeresnet quantize` put into INT8; None for forms that it did not make.
        emulated: By processor, where those of ``OUR_FORMS`` were emulated.
    """

    top1: float
    sqnr_db: float
    agreement: float
    speedup: float
    layers_in_int8: int | None
    emulated: dict[str, EmulatedAccuracy]


@dataclass(frozen=True, kw_only=True)
class TrainedResult:
    """One network.

    Attributes:
        network: Its architecture.
        size: Height and width of its images.
        layers: Number of its layers with weights.
        images: Test images.
        emulated: How many of them were given to emulated processors.
        fp32_top1: Of its FP32 file.
        fp32_ms: Time of a call with one image.
        forms: By name in ``FORMS``, those that could be made.
    """

    network: str
    size: tuple[int, int]
    layers: int
    images: int
    emulated: int
    fp32_top1: float
    fp32_ms: float
    forms: dict[str, FormAccuracy]


def measure_trained(weights: Path, data: Path, limit: int | None = None, emulated: int = 0) -> TrainedResult:
    """Export and quantize a trained network, and measure every form on the test images.

    Args:
        weights: That `edgeresnet train` wrote.
        data: What it was trained on: ranges come from its training images, accuracy from its test images.
        limit: Of the test images.
        emulated: How many of those ``PROCESSORS`` answer as well, by emulation.
    """
    trained = load_weights(weights)
    size = trained.spec.input
    seen = read_split(data, "train", size=size, limit=CALIBRATION_IMAGES).images
    test = match_classes(read_split(data, "test", size=size, limit=limit), trained.spec.labels)
    with TemporaryDirectory(prefix="edgeresnet-") as folder:
        fp32 = _export(weights, Path(folder))
        made = make_forms(fp32, seen, seen, partial(_build, weights))
        original, measured = measure_forms(fp32, made, test.images)
        some = take_evenly(test, emulated)
        elsewhere = {form: _emulate(made[form].path, some) for form in OUR_FORMS if form in made and len(some)}
    forms = {}
    for form, found in measured.items():
        parity = compare_logits(original.logits, found.logits)
        forms[form] = FormAccuracy(
            top1=top1(found.logits, test.labels),
            sqnr_db=parity.sqnr_db,
            agreement=parity.agreement,
            speedup=found.speedup,
            layers_in_int8=made[form].layers_in_int8,
            emulated=elsewhere.get(form, {}),
        )
    return TrainedResult(
        network=trained.spec.architecture,
        size=(size.height, size.width),
        layers=max(len(file.layers) for file in made.values()),
        images=len(test),
        emulated=len(some),
        fp32_top1=top1(original.logits, test.labels),
        fp32_ms=original.ms,
        forms=forms,
    )


def _emulate(model: Path, test: LabelledImages) -> dict[str, EmulatedAccuracy]:
    with ThreadPoolExecutor(available_cores()) as pool:
        here, *elsewhere = pool.map(partial(run_emulated, model, test.images), (HERE, *EMULATED))
    found = {}
    for processor, there in zip(EMULATED, elsewhere, strict=True):
        parity = compare_logits(here, there)
        found[processor] = EmulatedAccuracy(
            points=100 * (top1(there, test.labels) - top1(here, test.labels)),
            agreement=parity.agreement,
            sqnr_db=parity.sqnr_db if np.isfinite(parity.sqnr_db) else None,
        )
    return found


def _export(weights: Path, folder: Path) -> Path:
    """As a file, compared with the network on generated images: the test images have their turn later, and take minutes here."""
    command = [sys.executable, "-m", "edgeresnet", "export", str(weights), "--precision", "fp32", "--output", str(folder)]
    environment = {name: value for name, value in os.environ.items() if name != "EDGERESNET_DATA"}
    subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=True)  # noqa: S603  # our own command
    (path,) = folder.glob("*.onnx")
    return path


def _build(weights: Path) -> tuple[Any, Any]:
    import torch

    trained = load_weights(weights)
    return trained.model.eval(), torch.zeros(1, *trained.spec.input.shape, dtype=torch.uint8)


def tabulate(results: Sequence[Mapping[str, Any]]) -> str:
    """A record's results as a Markdown table: what each form loses of FP32's top-1 in percentage points, its SQNR and its speed."""
    headings = ("network", "FP32 top-1", *FORMS.values())
    rows = (
        (result["network"], f"{result['fp32_top1']:.2%}", *(_cell(result["forms"].get(form), result["fp32_top1"]) for form in FORMS))
        for result in results
    )
    return write_table(headings, rows, numbers=range(1, len(headings)))


def _cell(form: Mapping[str, Any] | None, fp32_top1: float) -> str:
    if form is None:
        return "-"
    return f"{100 * (form['top1'] - fp32_top1):+.2f}, {form['sqnr_db']:.0f} dB, {form['speedup']:.2f}x"


def tabulate_processors(results: Sequence[Mapping[str, Any]]) -> str:
    """What this project's forms gain or lose on every emulated processor, as a Markdown table."""
    headings = ("network", "form", *EMULATED)
    rows = (
        (result["network"], FORMS[form], *(_emulated_cell(result["forms"][form]["emulated"][processor]) for processor in EMULATED))
        for result in results
        for form in OUR_FORMS
        if result["emulated"] and form in result["forms"]
    )
    return write_table(headings, rows, numbers=range(2, len(headings)))


def _emulated_cell(found: Mapping[str, Any]) -> str:
    closeness = "to the bit" if found["sqnr_db"] is None else f"{found['sqnr_db']:.0f} dB"
    return f"{found['points']:+.2f}, {found['agreement']:.1%}, {closeness}"


@click.command()
@click.argument("weights", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--data", required=True, type=click.Path(exists=True, path_type=Path), envvar="EDGERESNET_DATA", help="What they were trained on."
)
@click.option("--limit", type=click.IntRange(min=1), help="Of the test images. [default: all]")
@click.option("--emulated", type=click.IntRange(min=0), default=0, help="Of the test images, for emulated processors. [default: none]")
@record_option
def command(weights: tuple[Path, ...], data: Path, limit: int | None, emulated: int, record: Path | None) -> None:
    """Quantize the trained networks WEIGHTS in every form and measure their accuracy; prints Markdown tables."""
    try:
        results = run_study(weights, lambda path: measure_trained(path, data, limit, emulated), record, {"data": data.name})
    except EdgeResNetError as error:
        raise click.ClickException(str(error)) from error
    click.echo(tabulate(results), nl=False)
    if emulated:
        click.echo("\n" + tabulate_processors(results), nl=False)


if __name__ == "__main__":
    # Builders are sent to another process, which knows them under the module's own name alone.
    from benchmarks.studies.trained import command as run

    run()

"""``edgeresnet adopt``."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeresnet.cli.options import EXISTING_FILE, fixed_inputs_option, format_option
from edgeresnet.cli.preprocessing import labels_from, labels_option, preprocessing_options
from edgeresnet.cli.terminal import note
from edgeresnet.errors import PreprocessingError
from edgeresnet.extras import needing
from edgeresnet.preprocessing import Changes

if TYPE_CHECKING:
    from exporters.adopt import AdoptedModel

EPILOG = """\b
Examples:
  edgeresnet adopt classifier.onnx --labels classes.txt --preset imagenet
  edgeresnet adopt grey-digits.onnx --mean 0.13 0.13 0.13 --std 0.31 0.31 0.31 --output digits.onnx
  edgeresnet adopt caffe.onnx --pixel-range 255 --mean 0.482 0.459 0.408 --bgr --resize 256
"""


@click.command(epilog=EPILOG)
@click.argument("model", type=EXISTING_FILE)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The result. [default: MODEL with -fp32 before its suffix]",
)
@labels_option
@preprocessing_options
@click.option(
    "--pixel-range",
    type=click.Choice(["1", "255"]),
    help="Largest pixel that MODEL expects before mean and deviation, where it says nothing of them or takes plain pixels.",
)
@click.option("--bgr", is_flag=True, help="MODEL takes blue first.")
@fixed_inputs_option
@format_option("table", "json")
def command(
    model: Path,
    output: Path | None,
    labels: Path | None,
    changes: Changes,
    pixel_range: str | None,
    bgr: bool,
    fixed: dict[str, str],
    style: str,
) -> None:
    """Make a file of this project from any ONNX classifier, so that every other command and the Python library take it.

    Reads from MODEL what it tells (layout, type, size and channels of its input, number of classes, logits or probabilities) and puts the
    normalization inside. Written only if it answers as MODEL does, to 1e-4 of the largest value. `edgeresnet quantize` makes INT8 of it.
    """
    with needing("export"):
        from exporters.adopt import adopt_model

    target = output or model.with_name(f"{model.stem}-fp32.onnx")
    if target.resolve() == model.resolve():
        raise click.UsageError("--output is the model itself")
    try:
        adopted = adopt_model(
            model,
            target,
            labels=labels_from(labels),
            changes=changes,
            pixel_range=int(pixel_range) if pixel_range else None,
            bgr=bgr,
            fixed=fixed,
        )
    except PreprocessingError as error:
        raise click.UsageError(str(error)) from error
    if style == "json":
        print(json.dumps(_describe(adopted), indent=1))
        return
    _show(adopted, model, changes)


def _describe(adopted: "AdoptedModel") -> dict[str, Any]:
    spec = adopted.spec
    return {
        "schema": "edgeresnet.adoption/1",
        "path": str(adopted.path),
        "size_bytes": adopted.size_bytes,
        "foreign_input": asdict(adopted.found),
        "input": asdict(spec.input),
        "mean": spec.mean,
        "std": spec.std,
        "output": spec.output,
        "classes": len(spec.labels),
        "labels_from": adopted.labels_from,
        "fixed_batch": adopted.fixed_batch,
        "relative_difference": adopted.relative_difference,
        "images": adopted.count,
    }


def _show(adopted: "AdoptedModel", model: Path, changes: Changes) -> None:
    spec, found = adopted.spec, adopted.found
    batch = "any number of images" if adopted.fixed_batch is None else f"{adopted.fixed_batch} image(s) at a time"
    print(
        f"{adopted.path}: {adopted.size_bytes / 1e6:.1f} MB, answers as {model} does: within {adopted.relative_difference:.1g} of "
        f"the largest value on {adopted.count} generated images"
    )
    print(f"  from the file: {found.element_type} {found.layout}, {found.height} x {found.width}, {found.channels} channel(s); {batch}")
    print(f"  images: {spec.input}; mean {_list(spec.mean)}, std {_list(spec.std)}")
    print(f"  output: {spec.output} of {len(spec.labels):,} classes; names from {adopted.labels_from}")
    if changes.fit is None and changes.preset is None:
        note("note: images are stretched to the input; fix, where the network was trained on centre crops: --fit crop")
    note("next:")
    note(f"  edgeresnet predict IMAGE --model {adopted.path}")
    note(f"  edgeresnet quantize {adopted.path}")
    note(f"  edgeresnet export {adopted.path} --precision fp16 --output {adopted.path.parent}")


def _list(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4g}" for value in values)

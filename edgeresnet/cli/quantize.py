"""``edgeresnet quantize``."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edgeresnet.cli.options import EXISTING_FILE, data_option, fixed_inputs_option, format_option, limit_option
from edgeresnet.cli.preprocessing import Size
from edgeresnet.cli.terminal import note, progress_bars, show
from edgeresnet.extras import needing
from edgeresnet.spec import ACCEPTABLE_SQNR_DB

if TYPE_CHECKING:
    from edgeresnet.datasets import LabelledImages
    from edgeresnet.progress import Track
    from exporters.quantize import QuantizedFile

EPILOG = """\b
Examples:
  edgeresnet quantize resnet50.onnx
  edgeresnet quantize detector.onnx --size 640x640 --images photos --min-db 25
  edgeresnet quantize mobilenet.onnx --images photos --pixel-range normalized
  edgeresnet quantize mobilenet.onnx --images photos --pixel-range normalized --for arm64
  edgeresnet quantize resnet18-fp32.onnx --data cifar10 --max-drop 0.3
"""


@click.command(epilog=EPILOG)
@click.argument("model", type=EXISTING_FILE)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The result. [default: MODEL with its form, -int8 or -int8-static, before its suffix]",
)
@click.option(
    "--dynamic",
    "form",
    flag_value="dynamic",
    help="Take the ranges of activations from each call. [default: the faster form; --static is tried if it has real --images]",
)
@click.option(
    "--static",
    "form",
    flag_value="static",
    help="Fix the ranges of activations beforehand, from images: depthwise and grouped convolutions compute in INT8 too.",
)
@click.option(
    "--for",
    "processor",
    type=click.Choice(["avx2", "vnni", "arm64"]),
    help="Make it for another machine: x86 with AVX2 alone, x86 with VNNI, 64-bit ARM. Nothing is timed then; what was measured on such "
    "processors decides which layers stay in FP32. [default: this machine, timed]",
)
@click.option("--size", type=Size(), help="Height and width of the images, for a model that leaves them open.")
@fixed_inputs_option
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of images such as the model is for, to prove the result on and, in the static form, to take ranges from others of them; a "
    "hundred are enough. [default: generated ones]",
)
@click.option(
    "--pixel-range",
    type=click.Choice(["normalized", "1", "255"]),
    help="What the model expects of a pixel in floats: mean 0 and deviation 1, or up to 1 or 255. --static needs it "
    "for floats. [default: prove it in each]",
)
@click.option(
    "--min-db",
    type=float,
    default=ACCEPTABLE_SQNR_DB,
    show_default=True,
    help="SQNR that every unit of every output must reach; layers stay in FP32 until it does.",
)
@click.option(
    "--fp32", "excluded", metavar="LAYER", multiple=True, help="A layer that stays in FP32, by its name in the table; repeatable."
)
@click.option("--max-drop", type=click.FloatRange(min=0), help="Largest loss of top-1 in percentage points, likewise; needs --data.")
@data_option
@limit_option
@format_option("table", "json")
def command(
    model: Path,
    output: Path | None,
    form: str | None,
    processor: str | None,
    size: tuple[int, int] | None,
    fixed: dict[str, str],
    images: Path | None,
    pixel_range: str | None,
    min_db: float,
    excluded: tuple[str, ...],
    max_drop: float | None,
    data: Path | None,
    limit: int | None,
    style: str,
) -> None:
    """Quantize any CNN in ONNX form to INT8, dynamic or static, whichever is faster; no data is needed.

    Says for every layer what it did and why, and writes the result only if it is close to MODEL in every output, smaller, and faster
    on this machine, unless it is --for another. --data and --max-drop are for classifiers of this project.
    """
    source = click.get_current_context().get_parameter_source
    if max_drop is not None and data is None:
        raise click.UsageError("--max-drop needs --data")
    if max_drop is None and ParameterSource.COMMANDLINE in (source("data"), source("limit")):
        raise click.UsageError("--data and --limit need --max-drop: labelled images are for a budget of top-1")
    with needing("export"):
        from exporters.quantize import quantize_file
    if output is not None and output.resolve() == model.resolve():
        raise click.UsageError("--output is the model itself")
    with progress_bars() as track:
        result = quantize_file(
            model,
            output,
            size=size,
            fixed=fixed,
            form=form,
            processor=processor or "",
            excluded=excluded,
            images=images,
            pixel_range=pixel_range,
            least_db=min_db,
            test=_read_test(model, data, limit, track) if data is not None and max_drop is not None else None,
            max_drop=max_drop,
            track=track,
        )
    if result.calibrated_on:
        note(f"calibrated on {result.calibrated_on}" if images else "calibrated on generated images: give --images")
    for other in result.others:
        reached = [f"{other.speedup:.2f}x"] if other.speedup is not None else []
        reached += [f"{other.sqnr_db:.1f} dB"] if other.sqnr_db is not None else []
        note(f"{other.precision} was not written: {', '.join(reached)}{'; ' if reached else ''}{other.reason}")
    if style == "json":
        print(json.dumps(_plain(asdict(result)), indent=1))
        return
    _show_layers(result)
    _show_result(result)


def _read_test(model: Path, data: Path, limit: int | None, track: "Track") -> "LabelledImages":
    """Labelled images at the size of the model, whose metadata says it."""
    from edgeresnet.datasets import read_split
    from edgeresnet.modelfile import read_model_file
    from edgeresnet.spec import ModelSpec

    size = ModelSpec.from_metadata(read_model_file(model).metadata).input
    return read_split(data, "test", size=size, limit=limit, track=track)


def _plain(value: Any) -> Any:
    """As JSON has it: no infinite numbers, no paths."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _show_layers(result: "QuantizedFile") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    headings = ("layer", "", "weights", "precision", "own dB", "ms", "FP32 ms", "why")
    table = Table(*headings, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.columns[0].overflow = "fold"
    for column in table.columns[4:7]:
        column.justify = "right"
    for layer in result.layers:
        why = layer.reason or ("scaled so that it cannot saturate" if layer.saturation_safe else "")
        table.add_row(
            escape(layer.label),
            layer.operator,
            "x".join(map(str, layer.weights)),
            "int8" if layer.quantized else "fp32",
            _number(layer.sqnr_db, ".1f"),
            _number(layer.int8_ms, ".3f"),
            _number(layer.fp32_ms, ".3f"),
            escape(why),
        )
    show(table)
    note(f"{sum(layer.quantized for layer in result.layers)} of {len(result.layers)} layers in INT8")


def _show_result(result: "QuantizedFile") -> None:
    proof = result.proof
    speed = f"for {result.processor}, not timed"
    if not result.processor:
        speed = f"{result.int8_ms:.2f} ms ({result.fp32_ms:.2f}, {result.speedup:.2f}x) with {result.threads} threads"
    print(f"{result.path}: {result.precision}, {result.size_bytes / 1e6:.1f} MB ({result.original_size_bytes / 1e6:.1f}), {speed}")
    for output in proof.outputs:
        print(output)
    print(f"measured on {proof.count} images: {proof.measured_on}")
    if result.accuracy is not None:
        print(result.accuracy)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)

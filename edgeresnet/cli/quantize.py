"""``edgeresnet quantize``."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeresnet.cli.options import EXISTING_FILE, format_option
from edgeresnet.cli.terminal import note, progress_bars, show
from edgeresnet.extras import needing
from edgeresnet.spec import ACCEPTABLE_SQNR_DB

if TYPE_CHECKING:
    from exporters.quantize import QuantizedFile

EPILOG = """\b
Examples:
  edgeresnet quantize resnet50.onnx
  edgeresnet quantize mobilenet.onnx --output mobilenet-small.onnx
"""


@click.command(epilog=EPILOG)
@click.argument("model", type=EXISTING_FILE)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The result. [default: MODEL with -int8 before its suffix]",
)
@click.option("--min-db", type=float, default=ACCEPTABLE_SQNR_DB, show_default=True, help="SQNR that the answers must reach.")
@format_option("table", "json")
def command(model: Path, output: Path | None, min_db: float, style: str) -> None:
    """Quantize any CNN in FP32 ONNX form to dynamic INT8; no data is needed.

    Says for every layer what it did and why, and compares the result with MODEL, in answers and in speed, before it writes it.
    """
    with needing("export"):
        from exporters.quantize import quantize_file
    target = output or model.with_name(f"{model.stem.removesuffix('-fp32')}-int8{model.suffix}")
    if target.resolve() == model.resolve():
        raise click.UsageError("--output is the model itself")
    with progress_bars() as track:
        result = quantize_file(model, target, least_db=min_db, track=track)
    if style == "json":
        print(json.dumps(asdict(result) | {"path": str(result.path)}, indent=1))
        return
    _show_layers(result)
    parity = result.parity
    print(
        f"{result.path}: {result.size_bytes / 1e6:.1f} MB ({result.original_size_bytes / 1e6:.1f}), "
        f"{result.int8_ms:.2f} ms ({result.fp32_ms:.2f}, {result.fp32_ms / result.int8_ms:.2f}x) with {result.threads} threads, "
        f"{parity.sqnr_db:.1f} dB from the original on {parity.count} generated images"
    )


def _show_layers(result: "QuantizedFile") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table("layer", "", "weights", "precision", "why", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.columns[0].overflow = "fold"
    for layer in result.layers:
        why = layer.reason or ("scaled down: would saturate without VNNI" if layer.saturation_safe else "")
        weights = "x".join(map(str, layer.weights))
        table.add_row(
            layer.weights_name.removesuffix(".weight") or layer.name, layer.operator, weights, "int8" if layer.quantized else "fp32", why
        )
    show(table)
    note(f"{sum(layer.quantized for layer in result.layers)} of {len(result.layers)} layers in INT8")

"""``edgeresnet export``."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from edgeresnet.cli.options import EXISTING_FILE, data_option, limit_option
from edgeresnet.cli.terminal import note, progress_bars, show
from edgeresnet.extras import needing
from edgeresnet.machine import instruction_sets
from edgeresnet.spec import DEFAULT_PRECISIONS, PRECISIONS

if TYPE_CHECKING:
    from exporters.export import ExportedModel

# Ranges change little beyond: a CIFAR ResNet-18 has 35.3 dB with 200 images.
CALIBRATION_IMAGES: Final = 256

EPILOG = """\b
Examples:
  edgeresnet export
  edgeresnet export runs/mine/weights.safetensors --precision int8 --data my-images --max-drop 0.3
"""


@click.command(epilog=EPILOG)
@click.argument("checkpoint", type=EXISTING_FILE, required=False)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(PRECISIONS),
    multiple=True,
    default=DEFAULT_PRECISIONS,
    show_default=True,
    help="Form of the result; repeatable.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="Folder of the results.",
)
@data_option
@limit_option
@click.option(
    "--amx",
    "for_amx",
    is_flag=True,
    help="Give int8-static the form for x86 processors with AMX; others run it more slowly.",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(min=0),
    help="Fail if top-1 falls by more than this many percentage points; needs --data.",
)
def command(
    checkpoint: Path | None,
    precisions: tuple[str, ...],
    output: Path,
    data: Path | None,
    limit: int | None,
    for_amx: bool,
    max_drop: float | None,
) -> None:
    """Convert weights to ONNX models (without CHECKPOINT the bundled ones) and compare each with the original.

    With --data the accuracy on the test split is measured and stamped into the files. Nothing is written unless all of them hold.
    """
    if data is None and (max_drop is not None or limit is not None):
        raise click.UsageError("--max-drop and --limit need --data")
    if data is None and "int8-static" in precisions:
        raise click.UsageError("int8-static takes its ranges from training images: --data is missing")
    if for_amx and "int8-static" not in precisions:
        raise click.UsageError("--amx is a form of int8-static: --precision int8-static is missing")
    with needing("export"):
        from edgeresnet.training.weights import bundled_weights, load_weights
        from exporters.export import export_models
    from edgeresnet.datasets import read_split

    weights = checkpoint or bundled_weights()
    with progress_bars() as track:
        size = load_weights(weights).spec.input
        test = read_split(data, "test", size=size, limit=limit, track=track) if data else None
        calibration = None
        if data is not None and "int8-static" in precisions:
            calibration = read_split(data, "train", size=size, limit=CALIBRATION_IMAGES, track=track).images
        exports = export_models(
            weights,
            tuple(dict.fromkeys(precisions)),
            output,
            test=test,
            calibration=calibration,
            for_amx=for_amx,
            max_drop=max_drop,
            track=track,
        )
    _show_table(exports)
    if "int8-static" in precisions and not for_amx and "amx_int8" in instruction_sets():
        note("this processor has AMX: --amx gives int8-static a form for it; bench shows what it gains")
    note("next:")
    note(f"  edgeresnet bench {' '.join(str(exported.path) for exported in exports)}" + (f" --data {data}" if data else ""))
    note(f"  edgeresnet predict IMAGE --model {exports[-1].path}")
    if not any(exported.spec.precision == "fp16" for exported in exports):
        note("  edgeresnet export --precision fp16   # for GPUs (--provider cuda), which have no kernels for dynamic INT8")


def _show_table(exports: list["ExportedModel"]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    first = exports[0]
    caption = f"compared with the PyTorch original on {first.parity.count:,} images ({first.compared_on})"
    if first.original_accuracy is not None:
        caption += f"; original: {first.original_accuracy.top1:.2%} top-1"
    headings = ("file", "MB", "seconds", "largest logit difference", "SQNR dB", "agrees", "top-1")
    table = Table(*headings, box=SIMPLE_HEAD, padding=0, pad_edge=False, caption=caption, caption_justify="left")
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify = "right"
    for exported in exports:
        parity = exported.parity
        table.add_row(
            str(exported.path),
            f"{exported.size_bytes / 1e6:.1f}",
            f"{exported.seconds:.1f}",
            f"{parity.largest_difference:.2g}",
            f"{parity.sqnr_db:.1f}",
            f"{parity.agreement:.2%}",
            f"{exported.spec.accuracy.top1:.2%}" if exported.spec.accuracy else "-",
        )
    show(table)

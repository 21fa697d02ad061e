"""``edgeresnet export``."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from edgeresnet.cifar10 import NETWORK
from edgeresnet.cli.options import EXISTING_FILE, data_option, limit_option, network_option
from edgeresnet.cli.preprocessing import labels_from, labels_option, preprocessing_options
from edgeresnet.cli.terminal import note, progress_bars, show
from edgeresnet.datasets import LabelledImages
from edgeresnet.errors import PreprocessingError
from edgeresnet.extras import needing
from edgeresnet.machine import instruction_sets
from edgeresnet.preprocessing import Changes
from edgeresnet.progress import Track
from edgeresnet.spec import DEFAULT_PRECISIONS, PRECISIONS, ModelSpec

if TYPE_CHECKING:
    from exporters.export import ExportedModel

# Ranges change little beyond: a CIFAR ResNet-18 has 35.3 dB with 200 images.
CALIBRATION_IMAGES: Final = 256

EPILOG = """\b
Examples:
  edgeresnet export
  edgeresnet export runs/mine/weights.safetensors --precision int8 --data my-images --max-drop 0.3
  edgeresnet export --network torchvision:mobilenet_v2 --weights mobilenet_v2.pth
  edgeresnet export --network timm:resnet50.a1_in1k --weights model.safetensors --labels classes.txt
  edgeresnet export --network my_package.models:build --weights best.pt --size 96x96 --preset imagenet
"""


@click.command(epilog=EPILOG)
@click.argument("checkpoint", type=EXISTING_FILE, required=False)
@network_option
@click.option(
    "--weights",
    type=EXISTING_FILE,
    help="The same as CHECKPOINT: weights from `edgeresnet train`, or of the network that --network names a state dictionary as "
    "safetensors or as torch.save writes it.",
)
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
@labels_option
@preprocessing_options
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
@click.option("--min-db", type=float, help="SQNR that answers below FP32 must reach. [default: 20, of fp16 30]")
def command(
    checkpoint: Path | None,
    network: str | None,
    weights: Path | None,
    precisions: tuple[str, ...],
    output: Path,
    labels: Path | None,
    changes: Changes,
    data: Path | None,
    limit: int | None,
    for_amx: bool,
    max_drop: float | None,
    min_db: float | None,
) -> None:
    """Convert weights to ONNX models (without CHECKPOINT the bundled ones) and compare each with the original.

    CHECKPOINT may also be the FP32 file of a network, exported or adopted: other precisions are then made of that.

    Images are treated as the network's own weights want it, as far as it is known: --size, --mean, --std, --fit, --resize and --filter
    say otherwise. With --data the accuracy on the test split is measured and stamped into the files. Nothing is written unless all of
    them hold.
    """
    _check_call(checkpoint, weights, precisions, data, limit=limit, max_drop=max_drop, for_amx=for_amx)
    with needing("export"):
        from edgeresnet.training.weights import bundled_weights
        from exporters.export import export_network, load_network

    from edgeresnet.datasets import read_split

    source = checkpoint or weights
    if source is None and network not in (None, NETWORK):
        raise click.UsageError(f"the weights of {network} are missing: --weights FILE")
    try:
        loaded = load_network(source or bundled_weights(), network, labels=labels_from(labels), changes=changes)
    except PreprocessingError as error:
        raise click.UsageError(str(error)) from error
    with progress_bars() as track:
        test = _read_test(data, loaded.spec, limit, track)
        calibration = None
        if data is not None and "int8-static" in precisions:
            calibration = read_split(data, "train", size=loaded.spec.input, limit=CALIBRATION_IMAGES, track=track).images
        exports = export_network(
            loaded,
            tuple(dict.fromkeys(precisions)),
            output,
            test=test,
            calibration=calibration,
            for_amx=for_amx,
            max_drop=max_drop,
            min_db=min_db,
            track=track,
        )
    _show_table(exports, source.name if source is not None and source.suffix == ".onnx" else "the PyTorch original")
    if "int8-static" in precisions and not for_amx and "amx_int8" in instruction_sets():
        note("this processor has AMX: --amx gives int8-static a form for it; bench shows what it gains")
    _show_next(exports, source, network, data)


def _check_call(
    checkpoint: Path | None,
    weights: Path | None,
    precisions: tuple[str, ...],
    data: Path | None,
    *,
    limit: int | None,
    max_drop: float | None,
    for_amx: bool,
) -> None:
    if checkpoint is not None and weights is not None:
        raise click.UsageError("CHECKPOINT and --weights are the same: give one of them")
    if data is None and (max_drop is not None or limit is not None):
        raise click.UsageError("--max-drop and --limit need --data")
    if data is None and "int8-static" in precisions:
        raise click.UsageError("int8-static takes its ranges from training images: --data is missing")
    if for_amx and "int8-static" not in precisions:
        raise click.UsageError("--amx is a form of int8-static: --precision int8-static is missing")


def _read_test(data: Path | None, spec: ModelSpec, limit: int | None, track: Track) -> LabelledImages | None:
    """Test images, where there are any: those to calibrate with need no labels that are the network's."""
    from edgeresnet.datasets import MissingSplitError, read_split

    if data is None:
        return None
    try:
        return read_split(data, "test", size=spec.input, limit=limit, track=track)
    except MissingSplitError:
        note(f"note: {data} has no test split: the models are compared on generated images, and their accuracy is not known")
        return None


def _show_next(exports: list["ExportedModel"], source: Path | None, network: str | None, data: Path | None) -> None:
    models = " ".join(str(exported.path) for exported in exports)
    original = f" --original {source}" if source else ""
    named = f" --network {network}" if network else ""
    note("next:")
    note(f"  edgeresnet bench {models}" + (f" --data {data}" if data else "") + original + named)
    # The stock form is there to be compared with.
    ours = [exported for exported in exports if exported.spec.precision != "int8-stock"] or exports
    note(f"  edgeresnet predict IMAGE --model {ours[-1].path}")
    if not any(exported.spec.precision == "fp16" for exported in exports):
        again = f" {source}" if source else ""
        note(f"  edgeresnet export{again}{named} --precision fp16   # for GPUs (--provider cuda), which have no kernels for dynamic INT8")


def _show_table(exports: list["ExportedModel"], original: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    first = exports[0]
    caption = f"compared with {original} on {first.parity.count:,} images ({first.compared_on})"
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

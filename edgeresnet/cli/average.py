"""``edgeresnet average``."""

from pathlib import Path

import click

from edgeresnet.cli.options import EXISTING_FILE, data_option, network_option
from edgeresnet.cli.terminal import note, progress_bars, show_weights
from edgeresnet.extras import needing

EPILOG = """\b
Example:
  edgeresnet train --data my-images --init runs/one/weights.safetensors --seed 1 --lr 0.05 --epochs 5 --output runs/two
  edgeresnet average runs/one/weights.safetensors runs/two/weights.safetensors --data my-images --output average.safetensors
"""


@click.command(epilog=EPILOG)
@click.argument("weights", nargs=-1, required=True, type=EXISTING_FILE)
@data_option
@network_option
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Weights file to write.")
@click.option(
    "--validation-fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Part of every class that the runs held out. [default: that of `edgeresnet train`]",
)
def command(weights: tuple[Path, ...], data: Path | None, network: str | None, output: Path, validation_fraction: float | None) -> None:
    """Average the WEIGHTS of runs that began from each other: often better than each of them, at no cost on the device.

    Estimates the statistics of normalization anew, measures all on the images that were held out of training, and writes the
    average if it is better than its parts.
    """
    if len(weights) < 2:
        raise click.UsageError("an average needs two weights files at least")
    if data is None:
        raise click.UsageError("--data is missing: where are the images?")
    with needing("train"):
        from edgeresnet.training.average import average_weights
        from edgeresnet.training.config import TrainingConfig
    fraction = validation_fraction or TrainingConfig.validation_fraction
    with progress_bars() as track:
        result = average_weights(weights, data, output, validation_fraction=fraction, network=network, report=note, track=track)
    show_weights(result.path, result.accuracy, data, network)

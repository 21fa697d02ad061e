"""``edgeresnet train``."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeresnet.cifar10 import ARCHITECTURE
from edgeresnet.cli.options import EXISTING_FILE, data_option
from edgeresnet.cli.terminal import note, progress_bars, show_weights
from edgeresnet.extras import needing
from edgeresnet.training.process import keep_freed_memory

if TYPE_CHECKING:
    from edgeresnet.training.config import TrainingConfig

EPILOG = """\b
Examples:
  edgeresnet train --data cifar10 --download --output runs/first
  edgeresnet train --data my-images --epochs 60 --output runs/mine
  edgeresnet train --data my-images --resume --output runs/mine
  edgeresnet train --data my-images --init bundled --lr 0.02 --epochs 10 --output runs/tuned
  edgeresnet train --data my-images --network torchvision:mobilenet_v3_small --image-size 96 --init mobilenet_v3_small.pth
  edgeresnet train --data my-images --network timm:mobilenetv3_small_100 --teacher runs/large/weights.safetensors
  torchrun --nproc-per-node 4 -m edgeresnet train --data cifar10 --output runs/four
"""


@click.command(epilog=EPILOG)
@data_option
@click.option("--download", is_flag=True, help="Fetch CIFAR-10 into --data through torchvision if it is not there yet.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default="runs/train",
    show_default=True,
    help="Folder of the run.",
)
@click.option(
    "--network",
    help="What to train: cifar-resnet18, torchvision:NAME, timm:NAME, or package.module:callable for one of your own, which is imported. "
    "[default: cifar-resnet18]",
)
@click.option("--resume", is_flag=True, help="Go on with the run in --output, with the settings it was started with.")
@click.option(
    "--recipe",
    type=EXISTING_FILE,
    help="JSON file of settings, such as the config.json of another run; options given here win.",
)
@click.option(
    "--init",
    metavar="FILE|bundled",
    help="Weights to begin with, from here or a state dictionary from anywhere; their head is kept if it is for the same classes. "
    "[default: fresh weights]",
)
@click.option(
    "--teacher",
    type=EXISTING_FILE,
    metavar="FILE",
    help="Weights of a larger network for the same classes, whose answers to the same images are learned as well (knowledge distillation). "
    "[default: labels alone]",
)
@click.option("--teacher-network", metavar="NAME", help="What network they are of, where the file does not say or it is one of your own.")
@click.option("--epochs", type=int, help="Passes over the images. [default: 30]")
@click.option("--batch-size", type=int, help="Images per step, of all processes together. [default: 128]")
@click.option("--lr", type=float, help="Peak learning rate. [default: 0.1]")
@click.option(
    "--muon-lr",
    type=float,
    help="Have Muon update the filters of convolutions, with this peak rate (0.045 is a good one), and SGD the rest. [default: SGD alone]",
)
@click.option(
    "--image-size", type=int, help="Height and width of the images that the network gets. [default: what is usual for the network]"
)
@click.option("--seed", type=int, help="Decides everything that is random. [default: 0]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--amp/--no-amp", default=None, help="bfloat16 autocast. [default: where the device computes in bfloat16]")
# What it asks for is always so now; scripts that were written when it was not go on to run.
@click.option("--no-winograd", is_flag=True, hidden=True, expose_value=False)
def command(
    data: Path | None,
    download: bool,
    output: Path,
    network: str | None,
    resume: bool,
    recipe: Path | None,
    init: str | None,
    teacher: Path | None,
    teacher_network: str | None,
    device: str,
    **settings: Any,
) -> None:
    """Train a network, by default the CIFAR ResNet-18, from scratch or from trained weights.

    Writes weights.safetensors, log.csv, curves.png, config.json and, after every epoch, the state to resume from. Ctrl-C saves
    before it leaves.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if data is None:
        raise click.UsageError("--data is missing: where are the images?")
    if resume and (given or recipe or init):
        raise click.UsageError("--resume takes the settings from the run itself: leave --recipe, --init and the other settings out")
    if teacher_network and not teacher:
        raise click.UsageError("--teacher-network says what network the weights of --teacher are of: name those, too")
    keep_freed_memory()
    with needing("train"):
        from edgeresnet.training.device import choose_device, computes_in_bfloat16
        from edgeresnet.training.run import run_training
        from edgeresnet.training.weights import bundled_weights
        from edgeresnet.training.workers import join_workers
    chosen = choose_device(device)
    beginning = bundled_weights() if init == "bundled" else Path(init) if init else None
    config = None
    if not resume:
        defaults = _read_recipe(recipe, network) if recipe else _choose_defaults(network, given.get("image_size"))
        try:
            config = dataclasses.replace(defaults, **({} if recipe else {"amp": computes_in_bfloat16(chosen)}) | given)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    if download:
        from edgeresnet.training.download import download_cifar10

        download_cifar10(data)
    with join_workers(chosen) as (workers, own_device), progress_bars() as track:
        result = run_training(
            config,
            data,
            output,
            device=own_device,
            init=beginning,
            network=network,
            teacher=teacher,
            teacher_network=teacher_network,
            workers=workers,
            report=note,
            track=track,
        )
    if not workers.is_first:
        return
    if result.weights is None:
        again = {"--network": network, "--teacher": teacher, "--teacher-network": teacher_network}
        named = "".join(f" {option} {value}" for option, value in again.items() if value)
        resuming = f"edgeresnet train --data {data} --output {output} --resume{named}"
        note(f"stopped after {result.epochs_done} epochs and saved; go on with: {resuming}")
        raise click.Abort
    show_weights(result.weights, result.accuracy, data, network)


def _read_recipe(path: Path, network: str | None) -> "TrainingConfig":
    """The settings of a recipe; it may not name code that the user does not name himself."""
    from edgeresnet.training.config import TrainingConfig
    from edgeresnet.training.networks import canonical, find_stored

    recipe = TrainingConfig.from_json(path.read_bytes())
    if network is not None:
        return dataclasses.replace(recipe, network=network)
    find_stored(canonical(recipe.network), None, str(path))
    return recipe


def _choose_defaults(network: str | None, image_size: int | None) -> "TrainingConfig":
    """The default recipe; for another network than the default one at its own size."""
    from edgeresnet.training.config import TrainingConfig
    from edgeresnet.training.networks import canonical, find_network

    if network is None or canonical(network) == ARCHITECTURE:
        return TrainingConfig()
    blueprint = find_network(network)
    if image_size is None:
        usual = blueprint.preprocess(None, "").input
        if usual.height != usual.width:
            raise click.UsageError(f"{network} takes images of {usual.height} x {usual.width}, training is on squares: say --image-size")
        image_size = usual.height
    try:
        return TrainingConfig.for_network(network, image_size)
    except ValueError as error:
        raise click.UsageError(str(error)) from error

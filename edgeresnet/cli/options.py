"""Options that several commands share, so that they mean the same everywhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

EXISTING_PATH: Final = click.Path(exists=True, path_type=Path)
EXISTING_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)

data_option: Final[Decorator] = click.option(
    "--data",
    type=EXISTING_PATH,
    envvar="EDGERESNET_DATA",
    show_envvar=True,
    help="Images: a folder with train/ and test/ class folders, an archive of one, a folder of such archives, or torchvision's CIFAR-10.",
)
limit_option: Final[Decorator] = click.option(
    "--limit", type=click.IntRange(min=1), help="Use this many images, spread evenly over the classes, instead of all."
)
provider_option: Final[Decorator] = click.option(
    "--provider",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where to run. It runs there or fails; it never falls back.",
)
threads_option: Final[Decorator] = click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads. [default: every core that the process may use]"
)
checkpoint_option: Final[Decorator] = click.option(
    "--original",
    "checkpoint",
    type=EXISTING_FILE,
    help="Weights of the PyTorch original that the models were made from. [default: the bundled weights]",
)


def format_option(*formats: str) -> Decorator:
    """``--format``, of which the first is the default."""
    return click.option(
        "--format",
        "style",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="Form of the output.",
    )

"""The options that say what happens to an image before a network sees it, shared by the commands that take in networks."""

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any, Final

import click

from edgeresnet.cli.options import EXISTING_FILE
from edgeresnet.preprocessing import PRESETS, Changes
from edgeresnet.spec import FILTERS, FITS

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Size(click.ParamType[tuple[int, int]]):
    """HEIGHTxWIDTH in pixels; one number is a square."""

    name = "size"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        sides = str(value).lower().split("x")
        if len(sides) > 2 or not all(side.isascii() and side.isdigit() and int(side) for side in sides):
            self.fail(f"{value!r} is not HEIGHTxWIDTH in pixels, such as 224x224", param, ctx)
        return int(sides[0]), int(sides[-1])


labels_option: Final[Decorator] = click.option(
    "--labels", type=EXISTING_FILE, help="Names of the classes in the order of the outputs: one a line, or a JSON list."
)

_OPTIONS: Final[tuple[Decorator, ...]] = (
    click.option("--preset", type=click.Choice(PRESETS), help="ImageNet's mean and deviation, and its crop by the bilinear filter."),
    click.option("--size", type=Size(), help="Height and width of the input in pixels."),
    click.option("--mean", type=float, nargs=3, metavar="R G B", help="Mean of pixels scaled to 0..1; for grey the same three times."),
    click.option("--std", type=float, nargs=3, metavar="R G B", help="Standard deviation, likewise."),
    click.option(
        "--fit",
        type=click.Choice(FITS),
        help="How an image of another shape is fitted: stretched, its centre cut out, or whole with borders.",
    ),
    click.option(
        "--resize",
        type=click.IntRange(min=1),
        metavar="N",
        help="Size before the centre is cut out: of the shorter side for a crop [default: the size over 0.875], of both if stretched.",
    ),
    click.option("--filter", type=click.Choice(FILTERS), help="By which images are resized."),
)


def preprocessing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options; the command gets them as ``changes``."""

    @wraps(command)
    def with_changes(**values: Any) -> Any:
        return command(changes=Changes(**{field.name: values.pop(field.name) for field in fields(Changes)}), **values)

    decorated: Callable[..., Any] = with_changes
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def labels_from(path: Path | None) -> tuple[str, ...] | None:
    """What ``--labels`` names, or None where it was not given."""
    from edgeresnet.labels import read_labels

    return read_labels(path) if path is not None else None

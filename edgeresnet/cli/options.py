"""Options that several commands share, so that they mean the same everywhere."""

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from edgeresnet.cli.terminal import note
from edgeresnet.providers import AUTO
from edgeresnet.target import PROVIDERS, Target

if TYPE_CHECKING:
    from edgeresnet.profile import Profile

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
checkpoint_option: Final[Decorator] = click.option(
    "--original",
    "checkpoint",
    type=EXISTING_FILE,
    help="What the models were made from, to compare them with: weights, or an ONNX file. [default: the bundled weights for "
    "models of that network, of others the FP32 one among them]",
)

network_option: Final[Decorator] = click.option(
    "--network",
    help="cifar-resnet18, torchvision:NAME, timm:NAME, or package.module:callable for one of your own, which is imported. "
    "[default: what the weights say they are]",
)


def _parse_fixed(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Values of inputs from ``NAME=VALUE``; a name may have equals signs in it, a number has none."""
    fixed = {}
    for value in values:
        name, separator, number = value.rpartition("=")
        if not separator or not name:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE", context, parameter)
        fixed[name] = number
    return fixed


fixed_inputs_option: Final[Decorator] = click.option(
    "--input",
    "fixed",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_parse_fixed,
    help="Make an input of the model that is not the images constant; repeatable.",
)


def _read_options(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    options = {}
    for value in values:
        name, sign, text = value.partition("=")
        if not (name and sign):
            raise click.BadParameter(f"{value!r} is not NAME=VALUE", context, parameter)
        options[name] = text
    return options


_TARGET_OPTIONS: Final[tuple[Decorator, ...]] = (
    click.option(
        "--provider",
        type=click.Choice([*PROVIDERS, AUTO]),
        default="cpu",
        show_default=True,
        help="Where to run. It runs there or fails; auto takes the first of cuda, openvino and cpu that takes the model, and tells.",
    ),
    click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [default: every core that the process may use]"),
    click.option("--exact", is_flag=True, help="Multiply FP32 in FP32: no TF32 on CUDA, no bfloat16 on OpenVINO."),
    click.option("--force", is_flag=True, help="Accept that what the provider does not take runs on the CPU; says which nodes."),
    click.option(
        "--provider-option",
        "provider_options",
        metavar="NAME=VALUE",
        multiple=True,
        callback=_read_options,
        help="ONNX Runtime's own option of the provider, such as device_id=1 for CUDA; repeatable.",
    ),
    click.option("--profile", type=EXISTING_FILE, help="Take model and settings from this file, which `edgeresnet tune` wrote."),
)


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say where and how to run; the command gets ``target`` and the ``profile`` that it comes from, or None."""

    @wraps(command)
    def with_target(profile: Path | None, **values: Any) -> Any:
        settings = {field.name: values.pop(field.name) for field in fields(Target) if field.name in values}
        if profile is None:
            try:
                target = Target(**settings)
            except ValueError as error:
                raise click.UsageError(str(error)) from error
            return command(target=target, profile=None, **values)
        source = click.get_current_context().get_parameter_source
        given = [name for name in settings if source(name) is ParameterSource.COMMANDLINE]
        if given:
            option = given[0].replace("_", "-").removesuffix("s" if given[0] == "provider_options" else "")
            raise click.UsageError(f"--{option} cannot change what --profile sets")
        read = _read_profile(profile)
        return command(target=read.target, profile=read, **values)

    decorated: Callable[..., Any] = with_target
    for option in reversed(_TARGET_OPTIONS):
        decorated = option(decorated)
    return decorated


def _read_profile(path: Path) -> "Profile":
    from edgeresnet.profile import Profile

    profile = Profile.read(path)
    if profile.elsewhere is not None:
        note(f"note: {profile.elsewhere}")
    return profile


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

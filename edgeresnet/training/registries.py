"""torchvision's and timm's classifiers, with what their weights were trained on as the usual preprocessing."""

from collections import Counter
from functools import cache
from typing import Any, Final

import torchvision
from torch import nn

from edgeresnet.errors import MissingExtraError, NetworkError
from edgeresnet.preprocessing import Preprocessing, frame_of
from edgeresnet.spec import CROP, FILTERS, LETTERBOX, STRETCH, ImageInput
from edgeresnet.suggestions import did_you_mean
from edgeresnet.training.networks import TIMM, TORCHVISION, Blueprint
from edgeresnet.training.pixels import first_line

# These have heads for training that are left out, warn unless their initial weights are chosen, and, with the weights that torchvision
# has for them, scale what they get from ImageNet's mean and deviation to these: then as well from pixels to these at once.
INCEPTIONS: Final = {"googlenet": (0.5, 0.5, 0.5), "inception_v3": (0.5, 0.5, 0.5)}
# timm's names for how an image is fitted.
TIMM_FITS: Final = {"center": CROP, "squash": STRETCH, "border": LETTERBOX}


def find_torchvision(name: str) -> Blueprint:
    """One of torchvision's classifiers.

    Raises:
        NetworkError: If it has none of that name.
    """
    from torchvision.models._api import get_model_weights, list_models

    known = tuple(list_models(module=torchvision.models))
    if name not in known:
        raise NetworkError(f"torchvision has no classifier {name!r}{did_you_mean(name, known)}")
    weights: Any = get_model_weights(name)

    def preprocess(size: tuple[int, int] | None, sha256: str) -> Preprocessing:
        # The names of torchvision's files end in the beginning of their checksum.
        chosen = next((entry for entry in weights if sha256 and entry.url.endswith(f"-{sha256[:8]}.pth")), weights.DEFAULT)
        transforms = chosen.transforms()
        (crop,), (resize,) = transforms.crop_size, transforms.resize_size
        height, width = size or (crop, crop)
        frame = resize * height // crop, resize * width // crop
        fitted = ImageInput(
            height=height,
            width=width,
            fit=CROP,
            frame=frame if frame != (height, width) else None,
            filter=transforms.interpolation.value,
        )
        half = INCEPTIONS.get(name)
        return Preprocessing(input=fitted, mean=half or tuple(transforms.mean), std=half or tuple(transforms.std))

    return Blueprint(
        name=f"{TORCHVISION}:{name}",
        build=lambda classes: _build_torchvision(name, classes),
        preprocess=preprocess,
        labels=tuple(weights.DEFAULT.meta["categories"]),
    )


def _build_torchvision(name: str, classes: int) -> nn.Module:
    from torchvision.models._api import get_model

    special: dict[str, Any] = {"aux_logits": False, "init_weights": True} if name in INCEPTIONS else {}
    network: nn.Module = get_model(name, weights=None, num_classes=classes, **special)
    return network


def find_timm(name: str) -> Blueprint:
    """One of timm's classifiers, with or without the tag of weights: its ``pretrained_cfg`` says what is usual.

    Raises:
        NetworkError: If it has none of that name.
        MissingExtraError: If timm is not installed.
    """
    try:
        import timm
        from timm.data.config import resolve_data_config
        from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
        from timm.models import get_pretrained_cfg
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "timm") from error
    # timm would also take names that fetch from elsewhere, such as hf-hub:...
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture) or "/" in name or ":" in name:
        raise NetworkError(f"timm has no classifier {name!r}{did_you_mean(architecture, _timm_names())}")
    try:
        settings: Any = get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = ", ".join(timm.list_pretrained(f"{architecture}.*")) or "none"
        raise NetworkError(f"timm's {architecture} has no weights {tag!r}; it has {tags}") from error
    described: dict[str, Any] = settings.to_dict() if settings is not None else {}
    usual: dict[str, Any] = resolve_data_config(pretrained_cfg=described)  # type: ignore[no-untyped-call]  # untyped in timm
    subset = infer_imagenet_subset(described)
    return Blueprint(
        name=f"{TIMM}:{name}",
        build=lambda classes: _build_timm(name, classes),
        preprocess=lambda size, sha256: _preprocess_timm(usual, size),
        labels=_distinct(ImageNetInfo(subset)) if subset is not None else (),
    )


def _build_timm(name: str, classes: int) -> nn.Module:
    import timm

    try:
        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes)
    # Some of its networks need packages or arguments of their own; each says so in its way.
    except Exception as error:
        raise NetworkError(f"timm cannot build {name} ({type(error).__name__}: {first_line(error)})") from error
    return network


def _preprocess_timm(usual: dict[str, Any], size: tuple[int, int] | None) -> Preprocessing:
    channels, height, width = usual["input_size"]
    height, width = size or (height, width)
    mean, std = tuple(usual["mean"]), tuple(usual["std"])
    levels = tuple(round(255 * value) for value in mean)
    fit = TIMM_FITS[usual["crop_mode"]]
    fitted = ImageInput(
        height=height,
        width=width,
        channels=channels,
        fit=fit,
        frame=frame_of(height, width, usual["crop_pct"]),
        filter=usual["interpolation"] if usual["interpolation"] in FILTERS else "bicubic",
        fill=(levels if len(levels) == 3 else levels * 3) if fit == LETTERBOX else (0, 0, 0),
    )
    return Preprocessing(input=fitted, mean=mean, std=std)


def _distinct(info: Any) -> tuple[str, ...]:
    """ImageNet's classes in words, with WordNet's number where two have the same."""
    names = info.label_descriptions()
    counts = Counter(names)
    return tuple(name if counts[name] == 1 else f"{name} ({number})" for name, number in zip(names, info.label_names(), strict=True))


@cache
def _timm_names() -> tuple[str, ...]:
    import timm

    return tuple(timm.list_models())

"""The form in which a network takes raw pixels and answers in logits: what every export is compared with."""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from edgeresnet.errors import NetworkError
from edgeresnet.preprocessing import Preprocessing
from edgeresnet.spec import LOGITS, PROBABILITIES

# Of a row of probabilities in float32 the sum is 1 to this.
SUM_TOLERANCE: Final = 1e-4


class PixelClassifier(nn.Module):
    """A network with its normalization inside.

    Input uint8 (N, H, W, C), output float32 (N, classes).

    Args:
        network: Takes normalized float32 (N, C, H, W).
        mean: Of each channel of pixels scaled to [0, 1].
        std: Likewise.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", 255 * torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("scale", 1 / (255 * torch.tensor(std).view(-1, 1, 1)))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).to(self.mean.dtype)
        return take_logits(self.network((pixels - self.mean) * self.scale))


def take_logits(answer: object) -> Tensor:
    """The logits (N, classes) in what a network gives: a tensor, or something that has them as ``logits`` or in front of others.

    Raises:
        NetworkError: If there are none.
    """
    found = answer
    if isinstance(answer, Mapping):
        found = answer.get("logits")
    elif isinstance(getattr(answer, "logits", None), Tensor):
        found = getattr(answer, "logits")  # noqa: B009  # it is an object of whatever library the network comes from
    elif isinstance(answer, (tuple, list)) and answer:
        found = answer[0]
    if not isinstance(found, Tensor) or found.ndim != 2:
        shape = f" of the shape {tuple(found.shape)}" if isinstance(found, Tensor) else ""
        raise NetworkError(f"the network gives a {type(answer).__name__}{shape}, not logits (images, classes): is it a classifier?")
    return found


@torch.inference_mode()
def try_network(network: nn.Module, preprocessing: Preprocessing, name: str) -> tuple[int, str]:
    """Run a network once, on two blank images.

    Args:
        network: Normalized float in, logits out; in eval mode afterwards.
        preprocessing: Says the size of its input.
        name: What a complaint calls it.

    Returns:
        Number of classes, and whether its answers are ``logits`` or ``probabilities``.

    Raises:
        NetworkError: If it takes no images of that size, or is no classifier.
    """
    height, width, channels = preprocessing.input.shape
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    # Not all alike: normalized grey of 0 everywhere would be probabilities of many a network by chance.
    images = torch.linspace(-2, 2, 2 * channels * height * width, device=device).view(2, channels, height, width)
    try:
        answers = take_logits(network.eval()(images))
    except NetworkError as error:
        raise NetworkError(f"{name}: {error}") from error
    # What a network raises at a size that it does not take depends on who wrote it.
    except Exception as error:
        raise NetworkError(f"{name} does not take images of {height} x {width} with {channels} channel(s) ({first_line(error)})") from error
    if len(answers) != len(images):
        raise NetworkError(f"{name}: gives {len(answers)} answers for {len(images)} images")
    sums = answers.double().sum(1)
    are_probabilities = bool((answers >= 0).all()) and bool(((sums - 1).abs() < SUM_TOLERANCE).all())
    return answers.shape[1], PROBABILITIES if are_probabilities else LOGITS


def find_channels(network: nn.Module) -> int:
    """Channels of the images that a network takes: those of its first convolution, if they are 1 or 3."""
    first = next((module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d)), 3)
    return first if first == 1 else 3


def first_line(error: BaseException) -> str:
    """What an exception says, in one line, never empty."""
    lines = str(error).strip().splitlines()
    return " ".join(lines[0].split()) if lines else type(error).__name__

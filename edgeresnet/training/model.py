"""The ResNet-18 of the CIFAR literature."""

from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet


def build_resnet18(classes: int) -> ResNet:
    """Build the ResNet-18 for small images (He et al., 2016, with the stem that the CIFAR literature gives it).

    It is torchvision's ResNet-18, under torchvision's parameter names, with a 3x3 stem of stride 1 in place of the 7x7 one
    and without the max-pool after it: 11,173,962 parameters for ten classes.

    Args:
        classes: Number of logits.

    Returns:
        A module from normalized float32 (N, 3, H, W) to logits float32 (N, classes).
    """
    return _build(BasicBlock, classes)


def _build(block: type[BasicBlock], classes: int) -> ResNet:
    network = ResNet(block, [2, 2, 2, 2], num_classes=classes, zero_init_residual=True)
    network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()  # type: ignore[assignment]  # torchvision declares the attribute as MaxPool2d
    network.avgpool = GlobalAverage()  # type: ignore[assignment]  # likewise, as AdaptiveAvgPool2d
    return network


def build_wide_resnet18(classes: int) -> ResNet:
    """Build the same network with twice the channels behind the stem: a teacher for it, of 44,595,786 parameters for ten classes."""
    return _build(_DoubledBlock, classes)


class _DoubledBlock(BasicBlock):
    expansion = 2

    def __init__(self, inplanes: int, planes: int, *others: Any, **named: Any) -> None:
        super().__init__(inplanes, self.expansion * planes, *others, **named)


class GlobalAverage(nn.Module):
    """Mean over the image. AdaptiveAvgPool2d to one pixel is the same and exports to ten index computations instead of a node."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean((2, 3), keepdim=True)

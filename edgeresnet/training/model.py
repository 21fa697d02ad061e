"""The ResNet-18 of the CIFAR literature, and the form in which it takes raw pixels."""

import torch
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
    network = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=classes, zero_init_residual=True)
    network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()  # type: ignore[assignment]  # torchvision declares the attribute as MaxPool2d
    network.avgpool = GlobalAverage()  # type: ignore[assignment]  # likewise, as AdaptiveAvgPool2d
    return network


class GlobalAverage(nn.Module):
    """Mean over the image. AdaptiveAvgPool2d to one pixel is the same and exports to ten index computations instead of a node."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean((2, 3), keepdim=True)


class PixelClassifier(nn.Module):
    """A network with its normalization inside, from raw pixels to logits; what every export is compared with.

    Input uint8 (N, H, W, 3) RGB, output float32 (N, classes).
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("scale", 1 / (255 * torch.tensor(std).view(3, 1, 1)))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).to(self.mean.dtype)
        logits: Tensor = self.network((pixels - self.mean) * self.scale)
        return logits

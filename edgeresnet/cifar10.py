"""What is about CIFAR-10 and its ResNet-18 alone: everything else here serves any classifier."""

from typing import Final

# The network that is bundled, and that commands take where none is named: what users call it, and what files do.
NETWORK: Final = "cifar-resnet18"
ARCHITECTURE: Final = "resnet18-cifar"
# Of its exports' names: resnet18-fp32.onnx.
EXPORT_STEM: Final = "resnet18"

# In the order of the data set's label files, which is also alphabetical (Krizhevsky, 2009).
CIFAR10_LABELS: Final = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_SIZE: Final = 32
# Mean and standard deviation of the training pixels scaled to [0, 1], as the CIFAR literature rounds them.
CIFAR10_MEAN: Final = (0.4914, 0.4822, 0.4465)
CIFAR10_STD: Final = (0.2470, 0.2435, 0.2616)

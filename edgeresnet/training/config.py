"""The settings of a training run."""

import json
from dataclasses import asdict, dataclass
from typing import Final

from edgeresnet.cifar10 import CIFAR10_SIZE, NETWORK
from edgeresnet.errors import CheckpointError

# Below this hardly anything is an image; a network may need more, and is tried.
SMALLEST_SIZE: Final = 8


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Everything that decides the outcome of a run besides the data.

    The recipe is the classic one of the field (SGD with momentum 0.9 and weight decay 5e-4, batch 128, flip and crop), with
    Nesterov momentum, a linear warm-up and linear decay to zero, label smoothing, cutout and an average of the weights.

    Attributes:
        network: What to train, one of ``networks.FORMS``.
        epochs: Passes over the training images.
        batch_size: Images per step.
        lr: Peak learning rate of SGD.
        muon_lr: Peak learning rate of Muon, the relative change of a filter in a step; it then updates the filters of convolutions
            and SGD the rest. 0 for SGD alone.
        momentum: Nesterov momentum.
        weight_decay: L2 penalty on the weights of convolutions and linear layers; norms and biases have none.
        warmup_fraction: Part of all steps in which the learning rate rises.
        label_smoothing: Share of the target that is spread over all classes.
        ema_decay: Decay per step of the averaged weights, which are what the run delivers.
        crop_padding: Largest random shift in pixels.
        cutout: Side of the painted square in pixels; 0 for none.
        trivial_augment: Change every image by one of fourteen operations as well (``augmentation.augment_trivially``).
        cutmix: Share of the steps in which a part of each image is another's (``augmentation.cut_mix``).
        image_size: Height and width that the network is made for.
        small_sizes: Progressive resizing: ``((epochs, size), ...)`` stages at smaller images before the rest of the run at
            ``image_size``. An epoch at half the size costs a quarter of the time.
        validation_fraction: Part of every class that is held out of training and measured after each epoch.
        seed: Decides the initial weights, the order and the augmentation.
        distillation_share: Of the loss, where there is a teacher, what its answers count; the rest is the labels'.
        distillation_temperature: Divides the logits of both, so that unlikely classes count.
        distillation_mirrored: Ask the teacher about the mirror images as well, and learn the mean of both answers.
        amp: bfloat16 autocast.
        init_sha256: Checksum of the weights file that the run begins with; empty for fresh weights.
        teacher_sha256: Checksum of the weights file of the network that the run learns from as well; empty for labels alone.
    """

    network: str = NETWORK
    epochs: int = 30
    batch_size: int = 128
    lr: float = 0.1
    muon_lr: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_fraction: float = 0.15
    label_smoothing: float = 0.1
    ema_decay: float = 0.998
    crop_padding: int = 4
    cutout: int = 8
    trivial_augment: bool = False
    cutmix: float = 0.0
    distillation_share: float = 0.9
    distillation_temperature: float = 2.0
    distillation_mirrored: bool = False
    image_size: int = CIFAR10_SIZE
    small_sizes: tuple[tuple[int, int], ...] = ()
    validation_fraction: float = 0.05
    seed: int = 0
    amp: bool = False
    init_sha256: str = ""
    teacher_sha256: str = ""

    def __post_init__(self) -> None:
        def require(holds: bool, what: str) -> None:
            if not holds:
                raise ValueError(what)

        require(self.epochs >= 1, f"epochs must be at least 1, not {self.epochs}")
        require(self.batch_size >= 2, f"batch_size must be at least 2, not {self.batch_size}: BatchNorm needs company")
        require(self.lr > 0, f"lr must be positive, not {self.lr}")
        require(0 <= self.muon_lr < 1, f"muon_lr must be in [0, 1), not {self.muon_lr}")
        require(0 <= self.momentum < 1, f"momentum must be in [0, 1), not {self.momentum}")
        require(self.weight_decay >= 0, f"weight_decay must not be negative, not {self.weight_decay}")
        require(0 <= self.warmup_fraction < 1, f"warmup_fraction must be in [0, 1), not {self.warmup_fraction}")
        require(0 <= self.label_smoothing < 1, f"label_smoothing must be in [0, 1), not {self.label_smoothing}")
        require(0 <= self.ema_decay < 1, f"ema_decay must be in [0, 1), not {self.ema_decay}")
        require(0 < self.validation_fraction < 1, f"validation_fraction must be in (0, 1), not {self.validation_fraction}")
        require(0 <= self.seed < 2**32, f"seed must be in [0, 2**32), not {self.seed}")
        for size in (self.image_size, *(size for _, size in self.small_sizes)):
            require(size >= SMALLEST_SIZE, f"an image size must be at least {SMALLEST_SIZE}, not {size}")
        require(
            0 <= self.crop_padding < self.image_size,
            f"crop_padding must be in [0, {self.image_size}), not {self.crop_padding}",
        )
        require(self.cutout >= 0, f"cutout must not be negative, not {self.cutout}")
        require(0 <= self.cutmix <= 1, f"cutmix must be in [0, 1], not {self.cutmix}")
        require(0 < self.distillation_share <= 1, f"distillation_share must be in (0, 1], not {self.distillation_share}")
        require(self.distillation_temperature > 0, f"distillation_temperature must be positive, not {self.distillation_temperature}")
        require(
            sum(count for count, _ in self.small_sizes) < self.epochs and all(count >= 1 for count, _ in self.small_sizes),
            f"the stages at small sizes {self.small_sizes} must leave at least one of {self.epochs} epochs for {self.image_size}",
        )

    @classmethod
    def for_network(cls, network: str, image_size: int) -> "TrainingConfig":
        """The recipe for another network: shifts and painted squares have the same share of its images."""
        share = image_size / CIFAR10_SIZE
        return cls(network=network, image_size=image_size, crop_padding=round(cls.crop_padding * share), cutout=round(cls.cutout * share))

    def size_at(self, epoch: int) -> int:
        """Image size that ``epoch`` trains at."""
        end = 0
        for count, size in self.small_sizes:
            end += count
            if epoch < end:
                return size
        return self.image_size

    def lr_fraction_at(self, step: int, steps: int) -> float:
        """Learning rate of one of ``steps`` over its peak: a linear rise over the warm-up, then a linear fall to zero."""
        warmup = self.warmup_fraction * steps
        position = step + 0.5
        return position / warmup if position < warmup else (steps - position) / (steps - warmup)

    def to_json(self) -> str:
        """The settings as a JSON object."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> "TrainingConfig":
        """Read settings back.

        Raises:
            CheckpointError: If the text is not the settings of a run.
        """
        try:
            values = json.loads(text)
            values["small_sizes"] = tuple(map(tuple, values["small_sizes"]))
            return cls(**values)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"the settings of the run are broken ({error})") from error

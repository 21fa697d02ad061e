"""The state of a run, from which it resumes exactly."""

import copy
import struct
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import torch
from torchvision.models.resnet import ResNet

from edgeresnet.errors import CheckpointError
from edgeresnet.files import replacing
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.model import build_resnet18
from edgeresnet.training.optimizer import build_optimizer
from edgeresnet.training.weights import TrainedNetwork

FORMAT: Final = "edgeresnet.training-state/3"


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One line of the log.

    Attributes:
        epoch: Number of the epoch, from 1.
        image_size: Size it trained and validated at.
        lr: Learning rate of its last step.
        train_loss: Mean loss over the epoch, with label smoothing and augmentation.
        train_top1: Top-1 on the augmented training images, 0 to 1.
        validation_loss: Plain cross-entropy of the averaged weights.
        validation_top1: Top-1 of the averaged weights, 0 to 1.
        images_per_s: Training throughput.
        seconds: Duration of the training part.
    """

    epoch: int
    image_size: int
    lr: float
    train_loss: float
    train_top1: float
    validation_loss: float
    validation_top1: float
    images_per_s: float
    seconds: float


@dataclass(kw_only=True)
class TrainingState:
    """Everything that changes during a run. Position is ``step`` alone: order and augmentation follow from seed and step.

    Attributes:
        classes: Class names, in the order of the logits.
        network: The network being trained.
        average: Its exponential moving average, BatchNorm statistics included.
        optimizer: Over the parameters of ``network``.
        data: What it is trained on, as ``datasets.describe_content`` says it.
        step: Steps done since the start of the run.
        loss_sum: Sum of the losses of the images of the current epoch.
        correct: Number of them that were classified correctly.
        seconds: Time spent on them.
        history: The epochs done.
    """

    classes: tuple[str, ...]
    network: ResNet
    average: ResNet
    optimizer: torch.optim.SGD
    data: str = ""
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seconds: float = 0.0
    history: list[EpochRecord] = field(default_factory=list)

    @classmethod
    def new(cls, config: TrainingConfig, classes: tuple[str, ...], device: torch.device) -> "TrainingState":
        """Fresh weights, decided by the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = build_resnet18(len(classes))
        network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # overload lacks the keyword
        average = copy.deepcopy(network).eval().requires_grad_(False)
        return cls(classes=classes, network=network, average=average, optimizer=build_optimizer(network, config))

    def begin_from(self, trained: TrainedNetwork) -> None:
        """Take over trained weights; the head too if it is for the same classes in the same order, else it stays fresh."""
        given = trained.model.network.state_dict()
        if trained.spec.labels != self.classes:
            given = {name: value for name, value in given.items() if not name.startswith("fc.")}
        for network in (self.network, self.average):
            network.load_state_dict(given, strict=False)

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        """Move the averaged weights a step towards the network.

        The decay starts low (Tarvainen and Valpola, arXiv:1703.01780), so that the first steps do not linger.
        """
        decay = min(decay, (1 + self.step) / (10 + self.step))
        averaged = [value for value in self.average.state_dict().values() if value.is_floating_point()]
        current = [value for value in self.network.state_dict().values() if value.is_floating_point()]
        torch._foreach_lerp_(averaged, current, 1 - decay)

    def save(self, path: Path, config: TrainingConfig) -> None:
        """Write the state, whole or not at all."""
        content = {
            "format": FORMAT,
            "config": config.to_json(),
            "classes": list(self.classes),
            "data": self.data,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "loss_sum": self.loss_sum,
            "correct": self.correct,
            "seconds": self.seconds,
            "history": [vars(record) for record in self.history],
        }
        with replacing(path) as temporary:
            torch.save(content, temporary)

    @classmethod
    def load(cls, path: Path, device: torch.device) -> tuple["TrainingState", TrainingConfig]:
        """Read a state back, with the settings of its run.

        Raises:
            CheckpointError: If the file is missing, broken or something else.
        """
        if not path.is_file():
            raise CheckpointError(f"{path}: no training state to resume from")
        try:
            content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
            if content["format"] != FORMAT:
                raise CheckpointError(f"{path}: has format {content['format']!r}, this release reads {FORMAT!r}")
            config = TrainingConfig.from_json(content["config"])
            state = cls.new(config, tuple(content["classes"]), device)
            state.network.load_state_dict(content["network"])
            state.average.load_state_dict(content["average"])
            state.optimizer.load_state_dict(content["optimizer"])
            state.data = content["data"]
            state.step, state.loss_sum = content["step"], content["loss_sum"]
            state.correct, state.seconds = content["correct"], content["seconds"]
            state.history = [EpochRecord(**record) for record in content["history"]]
        except CheckpointError:
            raise
        # torch.load raises whatever its pickle or zip reader meets in a broken file.
        except (
            RuntimeError,
            OSError,
            EOFError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            UnpicklingError,
            struct.error,
        ) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"{path}: not a training state of `edgeresnet train` ({reason})") from error
        return state, config

"""The state of a run, from which it resumes exactly."""

import copy
import io
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import torch
from torch import nn

from edgeresnet.errors import CheckpointError, NetworkError
from edgeresnet.files import write_bytes
from edgeresnet.preprocessing import Preprocessing
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.networks import Blueprint, canonical, find_network, find_stored
from edgeresnet.training.optimizer import Muon, build_optimizer
from edgeresnet.training.states import StateFile, find_head, load_state

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
        preprocessing: From an image to what the network computes on.
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
    preprocessing: Preprocessing
    network: nn.Module
    average: nn.Module
    optimizer: Muon
    data: str = ""
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seconds: float = 0.0
    history: list[EpochRecord] = field(default_factory=list)

    @classmethod
    def new(cls, config: TrainingConfig, classes: tuple[str, ...], device: torch.device) -> "TrainingState":
        """Fresh weights, decided by the seed.

        Raises:
            NetworkError: If there is no such network, or it does not do what the settings want.
            MissingExtraError: If it is timm's and timm is not installed.
        """
        blueprint = find_network(config.network)
        preprocessing = blueprint.preprocess((config.image_size, config.image_size), "")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = blueprint.build(len(classes))
        network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # overload lacks the keyword
        average = copy.deepcopy(network).eval().requires_grad_(False)
        optimizer = build_optimizer(network, config)
        return cls(classes=classes, preprocessing=preprocessing, network=network, average=average, optimizer=optimizer)

    def begin_from(self, weights: StateFile, labels: tuple[str, ...] | None, blueprint: Blueprint) -> bool:
        """Take over trained weights; the head too if it is for the same classes in the same order, else it stays fresh.

        Args:
            weights: Of this network.
            labels: Classes that they are for; None where nobody knows.
            blueprint: Of this network.

        Returns:
            Whether the head was taken over.

        Raises:
            CheckpointError: If they do not fit.
        """
        tensors = dict(weights.tensors)
        own = self.network.state_dict()
        if labels != self.classes:
            head = find_head(blueprint, self.network, len(self.classes))
            tensors |= {name: own[name] for name in head}
        for network in (self.network, self.average):
            load_state(network, replace(weights, tensors=tensors), blueprint.name)
        return labels == self.classes

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
        # In memory first: PyTorch's own writer of files raises errors of its own where the disk is full.
        stream = io.BytesIO()
        torch.save(content, stream)
        write_bytes(path, stream.getvalue())

    @classmethod
    def load(cls, path: Path, device: torch.device, network: str | None = None) -> tuple["TrainingState", TrainingConfig]:
        """Read a state back, with the settings of its run.

        Args:
            path: The file.
            device: Where to train.
            network: What the user names; needed where it is one of his own, which no file can have imported.

        Raises:
            CheckpointError: If the file is missing, broken or something else, or of another network than named.
            NetworkError: If its network cannot be built.
            MissingExtraError: If it is timm's and timm is not installed.
        """
        if not path.is_file():
            raise CheckpointError(f"{path}: no training state to resume from")
        try:
            content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
            if content["format"] != FORMAT:
                raise CheckpointError(f"{path}: has format {content['format']!r}, this release reads {FORMAT!r}")
            config = TrainingConfig.from_json(content["config"])
            find_stored(canonical(config.network), network, str(path))
            state = cls.new(config, tuple(content["classes"]), device)
            state.network.load_state_dict(content["network"])
            state.average.load_state_dict(content["average"])
            state.optimizer.load_state_dict(content["optimizer"])
            state.data = content["data"]
            state.step, state.loss_sum = content["step"], content["loss_sum"]
            state.correct, state.seconds = content["correct"], content["seconds"]
            state.history = [EpochRecord(**record) for record in content["history"]]
        except (CheckpointError, NetworkError):
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

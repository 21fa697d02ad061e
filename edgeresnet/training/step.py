"""One step of the optimizer, on a GPU as one CUDA graph."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import record_function

from edgeresnet.training.augmentation import normalize
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.distillation import distillation_loss
from edgeresnet.training.pixels import PixelClassifier, take_logits
from edgeresnet.training.state import TrainingState

# The parts of a step, under which it appears in torch.profiler.
PREPARE, FORWARD, BACKWARD, UPDATE = PARTS = ("prepare", "forward", "backward", "update")
# Steps at an image size before one is captured: libraries choose their algorithms and get their memory in them.
WARM_UP: Final = 3


@dataclass(frozen=True)
class Batch:
    """The images of a step.

    Attributes:
        images: uint8 (N, H, W, C), augmented.
        own: Their classes, int64 (N,).
        others: The classes of what is mixed into them, int64 (N,).
        share: Of each image, what is its own.
    """

    images: Tensor
    own: Tensor
    others: Tensor
    share: float


class Step:
    """Takes steps.

    A step is some thousand small kernels, which take a GPU less time than the host takes to start them one by one: of the CIFAR ResNet-18
    with a batch of 512 an H200's took 11 ms, and starting those of forward, backward and Muon 56 ms under the profiler. So all that does
    not depend on the learning rate is captured once and started as one CUDA graph, unless the network does what a graph cannot hold.

    Args:
        config: The settings.
        state: Where the run stands; advanced in place.
        network: That of the state, wrapped where several processes train it.
        statistics: Mean and standard deviation, as ``augmentation.normalization`` gives them.
        teacher: Whose answers to the same images the network learns as well, on the same device; None for labels alone.
        as_graph: Whether to capture. Takes a GPU, and one process.
    """

    def __init__(
        self,
        config: TrainingConfig,
        state: TrainingState,
        network: nn.Module,
        statistics: tuple[Tensor, Tensor],
        *,
        as_graph: bool,
        teacher: PixelClassifier | None = None,
    ) -> None:
        self._config, self._state, self._network, self._statistics, self._teacher = config, state, network, statistics, teacher
        self._as_graph = as_graph
        self._captured: _Captured | None = None
        self._warm, self._size = 0, 0

    def take(self, batch: Batch, size: int, lr_fraction: float) -> tuple[Tensor, Tensor]:
        """One step; the device may not be done with it yet.

        Args:
            batch: The images.
            size: At which the network gets them.
            lr_fraction: Learning rate over its peak.

        Returns:
            The sum of the images' losses, and the number that was right.
        """
        if size != self._size:
            self._captured, self._warm, self._size = None, 0, size
        share = torch.tensor(batch.share).to(batch.images.device, non_blocking=True)
        inputs = (batch.images, batch.own, batch.others, share)
        if self._as_graph and self._warm == WARM_UP and self._captured is None:
            self._captured = self._capture(inputs)
        if self._captured is not None:
            found = self._captured.replay(inputs)
        else:
            self._state.optimizer.zero_grad(set_to_none=True)
            found = self._differentiate(*inputs)
            self._warm = min(self._warm + 1, WARM_UP)
        with record_function(UPDATE):
            for group in self._state.optimizer.param_groups:
                group["lr"] = lr_fraction * group["peak_lr"]
            self._state.optimizer.step()
            self._state.step += 1
            self._state.update_average(self._config.ema_decay)
        return found

    def _differentiate(self, images: Tensor, own: Tensor, others: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """Everything up to the updates that the optimizer will apply, which take the place of the gradients."""
        arithmetic = torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self._config.amp, cache_enabled=False)
        smoothing = self._config.label_smoothing
        with record_function(FORWARD):
            inputs = normalize(images, *self._statistics, self._size)
            with arithmetic:
                logits = take_logits(self._network(inputs))
            logits = logits.float()
            loss = share * functional.cross_entropy(logits, own, label_smoothing=smoothing)
            loss = loss + (1 - share) * functional.cross_entropy(logits, others, label_smoothing=smoothing)
            if self._teacher is not None:
                with torch.no_grad(), arithmetic:
                    answers = self._teacher(images)
                    if self._config.distillation_mirrored:
                        answers = (answers + self._teacher(images.flip(2))) / 2
                taught = distillation_loss(logits, answers.float(), self._config.distillation_temperature)
                loss = torch.lerp(loss, taught, self._config.distillation_share)
        with record_function(BACKWARD):
            loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
            with arithmetic:
                self._state.optimizer.prepare()
        return loss.detach() * len(own), (logits.argmax(1) == own).sum()

    def _capture(self, inputs: tuple[Tensor, ...]) -> "_Captured | None":
        """The step as a graph, which has not run then; None if the network cannot be captured."""
        graph = torch.cuda.CUDAGraph()
        held = tuple(tensor.clone() for tensor in inputs)
        # So that the graph makes the gradients, in memory of its own.
        self._state.optimizer.zero_grad(set_to_none=True)
        try:
            with torch.cuda.graph(graph):
                outputs = self._differentiate(*held)
        # What a network does that a graph cannot hold, such as waiting for a value, the driver says in errors of many kinds.
        except RuntimeError:
            self._as_graph = False
            torch.cuda.synchronize()
            return None
        return _Captured(graph, held, outputs)


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, Tensor]

    def replay(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        for held, given in zip(self.inputs, inputs, strict=True):
            held.copy_(given)
        self.graph.replay()
        return self.outputs

"""Learning from the answers of a larger network, which say more of an image than its label (Hinton et al., arXiv:1503.02531)."""

import torch
from torch import Tensor
from torch.nn import functional

from edgeresnet.errors import CheckpointError
from edgeresnet.spec import LOGITS
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.pixels import PixelClassifier
from edgeresnet.training.weights import TrainedNetwork


def place_teacher(teacher: TrainedNetwork, config: TrainingConfig, classes: tuple[str, ...], device: torch.device) -> PixelClassifier:
    """The teacher of a run on its device, to be asked and never changed: uint8 (N, H, W, C) in, logits (N, classes) out.

    Raises:
        CheckpointError: If it has other classes or takes images of another size than the run, or answers in probabilities.
    """
    spec, size = teacher.spec, config.image_size
    if spec.labels != classes:
        raise CheckpointError(f"the teacher's classes ({', '.join(spec.labels[:3])}, ...) are not those of the data, in their order")
    if (spec.input.height, spec.input.width) != (size, size):
        raise CheckpointError(f"the teacher takes images of {spec.input.height} x {spec.input.width}, the run's are of {size} x {size}")
    if spec.output != LOGITS:
        raise CheckpointError("the teacher ends in a softmax, and learning from it takes logits; fix: leave the softmax out")
    model = teacher.model.eval().requires_grad_(False)
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]  # overload lacks the keyword


def distillation_loss(logits: Tensor, answers: Tensor, temperature: float) -> Tensor:
    """How far the classes' shares in logits are from those in a teacher's, both softened: a scalar.

    The Kullback-Leibler divergence in nats, a mean over the images, times the square of the temperature, with which its gradients are
    as large as those of cross-entropy at any temperature.

    Args:
        logits: Of the network that learns, float32 (N, classes).
        answers: Of the teacher, likewise.
        temperature: Divides both; the higher, the more the unlikely classes count.
    """
    own = functional.log_softmax(logits / temperature, 1)
    wanted = functional.log_softmax(answers / temperature, 1)
    return temperature**2 * functional.kl_div(own, wanted, reduction="batchmean", log_target=True)

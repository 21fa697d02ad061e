"""Learning from the answers of a larger network, which say more of an image than its label (Hinton et al., arXiv:1503.02531)."""

import torch
from torch import Tensor
from torch.nn import functional

from edgeresnet.errors import CheckpointError
from edgeresnet.preprocessing import Changes
from edgeresnet.spec import LOGITS
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.networks import find_network
from edgeresnet.training.pixels import PixelClassifier
from edgeresnet.training.states import StateFile
from edgeresnet.training.weights import fit_weights, read_spec


def build_teacher(
    state: StateFile, network: str | None, config: TrainingConfig, classes: tuple[str, ...], device: torch.device
) -> PixelClassifier:
    """The teacher of a run on its device, to be asked and never changed: uint8 (N, H, W, C) in, logits (N, classes) out.

    Args:
        state: Its weights, ours or anybody's; those that do not say for which classes and images they are, are taken for the run's.
        network: What the user names; None for what the file says.
        config: The settings of the run.
        classes: Of its data.
        device: Where to put it.

    Raises:
        CheckpointError: If it has other classes or takes images of another size than the run, answers in probabilities, or nobody
            says what network it is or how its pixels are normalized; or as ``weights.load_weights``.
        NetworkError: As there.
        MissingExtraError: Likewise.
    """
    path, size = state.path, (config.image_size, config.image_size)
    if read_spec(state) is None and network is not None:
        if not find_network(network).tells_normalization:
            raise CheckpointError(f"{path}: does not say how pixels were normalized; fix: a teacher that was trained by `edgeresnet train`")
        teacher = fit_weights(state, network, labels=classes, changes=Changes(size=size))
    else:
        teacher = fit_weights(state, network, option="--teacher-network")
    spec = teacher.spec
    if spec.labels != classes:
        raise CheckpointError(f"{path}: its classes ({', '.join(spec.labels[:3])}, ...) are not those of the data, in their order")
    if (spec.input.height, spec.input.width) != size:
        raise CheckpointError(
            f"{path}: takes images of {spec.input.height} x {spec.input.width}, and the run's are of {size[0]} x {size[1]}"
        )
    if spec.output != LOGITS:
        raise CheckpointError(f"{path}: ends in a softmax, and learning from it takes logits; fix: leave the softmax out")
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

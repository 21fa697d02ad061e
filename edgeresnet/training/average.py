"""One network out of the weights that several runs delivered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.resnet import ResNet

from edgeresnet.datasets import check_test_classes, hold_out, read_split
from edgeresnet.errors import CheckpointError, DataError
from edgeresnet.progress import Track, silent
from edgeresnet.spec import Accuracy
from edgeresnet.training.delivery import deliver
from edgeresnet.training.loop import Evaluation, evaluate
from edgeresnet.training.model import build_resnet18
from edgeresnet.training.norms import estimate_norms
from edgeresnet.training.weights import TrainedNetwork, load_weights


@dataclass(frozen=True, kw_only=True)
class AveragedWeights:
    """What was written.

    Attributes:
        path: The file.
        accuracy: On the test split; None if the data has none.
        members: What each of the networks makes of the images that were held out.
        average: What the average of them makes of those.
    """

    path: Path
    accuracy: Accuracy | None
    members: tuple[Evaluation, ...]
    average: Evaluation


def average_weights(
    sources: Sequence[Path],
    data: Path,
    target: Path,
    *,
    validation_fraction: float,
    report: Callable[[str], None] = lambda line: None,
    track: Track = silent,
) -> AveragedWeights:
    """Average the weights of runs that began from each other or from the same weights, and write them if that is a gain.

    The mean of such weights lies in a flatter place than each of them and generalizes better (stochastic weight averaging, Izmailov et
    al., arXiv:1803.05407). Weights that began apart have nothing in common; their mean knows nothing. So the mean must have a smaller
    loss on images that were held out than every one of the networks. The test split is read once, after that.

    Args:
        sources: Weights files, at least two.
        data: Any layout that ``edgeresnet.datasets`` reads: the images that the runs were trained on.
        target: File to write.
        validation_fraction: Part of every class that the runs held out.
        report: Receives a line of text for each network.
        track: Progress reporter.

    Raises:
        CheckpointError: If a file is not a weights file, they are of different classes or image sizes, or the mean is no gain;
            nothing is written then.
        DataError: If the data cannot be used or has other classes.
    """
    networks = [load_weights(path) for path in sources]
    spec = networks[0].spec
    for path, network in zip(sources, networks, strict=True):
        if (network.spec.labels, network.spec.input) != (spec.labels, spec.input):
            raise CheckpointError(f"{path}: has other classes or another image size than {sources[0]}")
    images = read_split(data, "train", size=spec.input, track=track)
    if images.classes != spec.labels:
        raise DataError(f"{data}: its classes are not those of the weights")
    check_test_classes(data, images.classes)
    training, held_out = hold_out(images, validation_fraction)

    def measure(name: str, network: torch.nn.Module) -> Evaluation:
        measured = evaluate(network, held_out, spec.image_size, track=track)
        report(f"{name}: loss {measured.loss:.4f}, top-1 {measured.top1:.2%} on {len(held_out):,} held-out images")
        return measured

    members = tuple(measure(str(path), network.model.network) for path, network in zip(sources, networks, strict=True))
    mean = _average(networks)
    estimate_norms(mean, training.images, spec.image_size, track=track)
    average = measure("average", mean)
    if not average.loss < min(member.loss for member in members):
        raise CheckpointError(
            "the average is no better than its parts on the images that were held out; nothing was written; "
            "fix: average runs of which one began with the weights of the other (--init)"
        )
    accuracy = deliver(mean.state_dict(), spec.labels, spec.image_size, data, target, report=report, track=track)
    return AveragedWeights(path=target, accuracy=accuracy, members=members, average=average)


def _average(networks: Sequence[TrainedNetwork]) -> ResNet:
    mean = build_resnet18(len(networks[0].spec.labels))
    states = [network.model.network.state_dict() for network in networks]
    mean.load_state_dict({name: _mean([state[name] for state in states]) for name in states[0]})
    return mean.eval().requires_grad_(False)


def _mean(values: list[Tensor]) -> Tensor:
    # Counters of seen batches are whole numbers, and nothing reads them.
    return torch.stack(values).mean(0) if values[0].is_floating_point() else values[0]

"""One network out of the weights that several runs delivered."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from edgeresnet.datasets import check_test_classes, hold_out, read_split
from edgeresnet.errors import CheckpointError, DataError
from edgeresnet.preprocessing import Preprocessing
from edgeresnet.progress import Track, silent
from edgeresnet.spec import Accuracy
from edgeresnet.training.delivery import deliver
from edgeresnet.training.loop import Evaluation, evaluate
from edgeresnet.training.norms import renew_norms
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
    network: str | None = None,
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
        network: What the user names; needed where it is one of his own.
        report: Receives a line of text for each network.
        track: Progress reporter.

    Raises:
        CheckpointError: If a file is not a weights file, they are of different classes or image sizes, or the mean is no gain;
            nothing is written then.
        DataError: If the data cannot be used or has other classes.
    """
    networks = [load_weights(path, network) for path in sources]
    spec = networks[0].spec
    for path, trained in zip(sources, networks, strict=True):
        if trained.spec.architecture != spec.architecture:
            raise CheckpointError(f"{path}: holds a {trained.spec.architecture}, {sources[0]} a {spec.architecture}")
        if (trained.spec.labels, trained.spec.input) != (spec.labels, spec.input):
            raise CheckpointError(f"{path}: has other classes or another image size than {sources[0]}")
    preprocessing = Preprocessing(input=spec.input, mean=spec.mean, std=spec.std)
    images = read_split(data, "train", size=spec.input, track=track)
    if images.classes != spec.labels:
        raise DataError(f"{data}: its classes are not those of the weights")
    check_test_classes(data, images.classes)
    training, held_out = hold_out(images, validation_fraction)

    def tell(name: str, measured: Evaluation) -> Evaluation:
        report(f"{name}: loss {measured.loss:.4f}, top-1 {measured.top1:.2%} on {len(held_out):,} held-out images")
        return measured

    members = tuple(
        tell(str(path), evaluate(trained.model.network, held_out, preprocessing, track=track))
        for path, trained in zip(sources, networks, strict=True)
    )
    mean = _average(networks)
    average = tell("average", renew_norms(mean, training.images, held_out, preprocessing, report=report, track=track))
    if not average.loss < min(member.loss for member in members):
        raise CheckpointError(
            "the average is no better than its parts on the images that were held out; nothing was written; "
            "fix: average runs of which one began with the weights of the other (--init)"
        )
    accuracy = deliver(
        mean.state_dict(), replace(spec, accuracy=None), data, target, device=torch.device("cpu"), report=report, track=track
    )
    return AveragedWeights(path=target, accuracy=accuracy, members=members, average=average)


def _average(networks: Sequence[TrainedNetwork]) -> nn.Module:
    mean = copy.deepcopy(networks[0].model.network)
    states = [network.model.network.state_dict() for network in networks]
    # Filled anew, since it also knows of what version each module is, which some ask for.
    averaged = mean.state_dict()
    averaged.update({name: _mean([state[name] for state in states]) for name in averaged})
    mean.load_state_dict(averaged)
    return mean.eval().requires_grad_(False)


def _mean(values: list[Tensor]) -> Tensor:
    # Whole numbers are counters of batches, which nothing reads, or tables that are the same in all.
    return torch.stack(values).mean(0) if values[0].is_floating_point() else values[0]

"""The last step of training: weights in a file that knows its accuracy."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from edgeresnet.datasets import MissingSplitError, read_split
from edgeresnet.errors import DataError
from edgeresnet.evaluation import collect_logits, measure
from edgeresnet.progress import Track
from edgeresnet.spec import Accuracy, ModelSpec
from edgeresnet.training.weights import load_weights, save_weights


def deliver(
    state: Mapping[str, Tensor],
    spec: ModelSpec,
    data: Path,
    target: Path,
    *,
    device: torch.device,
    report: Callable[[str], None],
    track: Track,
) -> Accuracy | None:
    """Write weights, and only then read the test split, once, and stamp the accuracy on it into them.

    Args:
        state: State dictionary of the network.
        spec: Its description.
        data: Where the test split is.
        target: File to write.
        device: Where to measure it, in float32.
        report: Receives a line of text if there is no test split.
        track: Progress reporter.

    Returns:
        The accuracy, or None without a test split.

    Raises:
        DataError: If the test split has other classes or cannot be read; the weights are complete then, but untested.
    """
    save_weights(target, state, spec)
    try:
        test = read_split(data, "test", size=spec.input, track=track)
    except MissingSplitError:
        report("the data has no test split: the weights carry no accuracy")
        return None
    if test.classes != spec.labels:
        raise DataError(f"{data}: the classes of the test split are not those of the training split; {target} is complete but untested")
    # Measured on what was stored: the weights rounded to half precision.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        logits = collect_logits(load_weights(target, spec.architecture).to(str(device)), test.images, "measuring on the test split", track)
    accuracy = measure(logits, test)
    save_weights(target, state, replace(spec, accuracy=accuracy))
    return accuracy

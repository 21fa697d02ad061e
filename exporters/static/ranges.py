"""Which range of an activation its 8 bits should cover."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeresnet.evaluation import images_at_once
from exporters.int8.layout import LEVELS
from exporters.sessions import open_session, show_values

# Of the error of an image that a range is chosen by: above the square, under which rare large activations count for little, and below the
# maximum, under which they count alone. Four sets of calibration images, 6 / 3 / 2.5: 35.3, 36.1, 36.6 dB for a CIFAR ResNet-18 (2 is worse
# than 2.5 again); for a usual image 14.8, 19.1, 18.9 dB for an EfficientNet-B0, 28.6, 26.8, 27.6 for a MobileNetV3-Large.
ERROR_POWER: Final = 2.5
# Of an image's relative error: the higher, the more the images count that a range fits least. A RegNetY-400MF has 32.9 dB for half of the
# images with 1, 31.7 with 1.5, 29.1 with 2; a MobileNetV3-Large 22.7, 23.7 and 24.6 dB over all.
IMAGE_POWER: Final = 1.5
# Candidates are the range that was seen, and each is this share of the one before; the last is LEAST_SHARE of a usual image's.
SHRINKING: Final = 0.97
LEAST_SHARE: Final = 0.3
BATCH: Final = 32
# Of an activation's values each image keeps so many of the smallest and of the largest, and so many of those between. What a range cuts
# off is in the ends: in a sample of all values it is there by chance.
ENDS: Final = 64
BETWEEN: Final = 500


@dataclass(frozen=True)
class Grid:
    """uint8 codes of an activation: ``value = (code - zero_point) * scale``."""

    scale: np.float32
    zero_point: np.uint8

    @classmethod
    def covering(cls, low: float, high: float) -> "Grid":
        """The grid from ``low`` to ``high``, stretched to hold zero exactly."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / LEVELS or 1.0
        return cls(np.float32(scale), np.uint8(np.rint(-low / scale)))

    def round(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The nearest values that the grid has."""
        codes = np.clip(np.rint(values / self.scale) + np.float32(self.zero_point), 0, LEVELS)
        rounded: NDArray[np.float32] = (codes - np.float32(self.zero_point)) * self.scale
        return rounded


def choose_grid(samples: NDArray[np.float32], shares: NDArray[np.float32]) -> Grid:
    """The grid of least error on samples: clipping few large values makes the steps finer for all others.

    What is least is the mean over the images of each one's error relative to its own values, so that each counts for one: in a
    RegNetY-400MF, whose activations are up to 819 on one of 100 images and up to 7 on the others, that one spoilt all answers (5.4 dB
    for half of 1,000 other images, 33 dB now).

    Args:
        samples: float32 (images, n), with the smallest and the largest value of each image.
        shares: float32 (n,): of an image's values, how many each stands for; they sum to 1.
    """
    low, high = samples.min(1), samples.max(1)
    amplitudes = _amplitudes(samples, shares)
    seen = amplitudes > 0
    if not seen.any():
        return Grid.covering(0, 0)
    reach = np.maximum(-low, high)
    least = LEAST_SHARE * float(np.median(reach) / reach.max())
    factors = SHRINKING ** np.arange(1 + math.log(max(least, 1e-6), SHRINKING))
    grids = [Grid.covering(factor * float(low.min()), factor * float(high.max())) for factor in factors]
    kept, own = samples[seen], amplitudes[seen]
    errors = [((_amplitudes(grid.round(kept) - kept, shares) / own) ** IMAGE_POWER).mean() for grid in grids]
    return grids[int(np.argmin(errors))]


def sample(values: NDArray[np.float32], generator: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What ``choose_grid`` is given of the values of some images: the ends of each, and some of those between, drawn with replacement.

    Args:
        values: float32 (images, n).
        generator: Draws.
    """
    count = values.shape[1]
    if count <= 2 * ENDS + BETWEEN:
        return values, np.full(count, 1 / count, np.float32)
    ordered = np.partition(values, (ENDS, count - ENDS - 1), axis=1)
    places = generator.integers(ENDS, count - ENDS, (len(values), BETWEEN))
    kept = [ordered[:, :ENDS], np.take_along_axis(ordered, places, 1), ordered[:, count - ENDS :]]
    shares = np.full(2 * ENDS + BETWEEN, 1 / count, np.float32)
    shares[ENDS:-ENDS] *= (count - 2 * ENDS) / BETWEEN
    return np.concatenate(kept, axis=1), shares


def _amplitudes(values: NDArray[np.float32], shares: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean ``ERROR_POWER``th power of each row, as an amplitude; float32 (rows,)."""
    sizes = np.abs(values)
    largest = sizes.max(1, initial=0)
    sizes /= np.maximum(largest, np.finfo(np.float32).tiny)[:, None]
    amplitudes: NDArray[np.float32] = largest * (sizes**ERROR_POWER @ shares) ** (1 / ERROR_POWER)
    return amplitudes


class Calibration:
    """Grids of a model's activations, found as they are asked for.

    Args:
        model: A checked FP32 model with one input.
        calls: Values of that input.
    """

    def __init__(self, model: onnx.ModelProto, calls: Sequence[NDArray[Any]]) -> None:
        self.model, self.calls = model, calls
        self._found: dict[str, Grid] = {}

    def grids(self, names: Sequence[str]) -> dict[str, Grid]:
        """The grid of each named activation."""
        missing = list(dict.fromkeys(name for name in names if name not in self._found))
        if missing:
            self._found |= _observe(self.model, missing, self.calls)
        return {name: self._found[name] for name in names}


def batches(images: NDArray[Any]) -> list[NDArray[Any]]:
    """Images in calls of so many that all activations of one can be in memory at once."""
    count = images_at_once(BATCH, images)
    return [images[start : start + count] for start in range(0, len(images), count)]


def calibrate(model: onnx.ModelProto, names: Sequence[str], images: NDArray[Any]) -> dict[str, Grid]:
    """Choose the grid of each named activation from what it is for some images.

    Args:
        model: A checked FP32 model with one input and an open batch.
        names: Activations.
        images: Values of the input, at least one.
    """
    return Calibration(model, batches(images)).grids(names)


def _observe(model: onnx.ModelProto, names: Sequence[str], calls: Sequence[NDArray[Any]]) -> dict[str, Grid]:
    image = model.graph.input[0].name
    inputs = [name for name in names if name == image]
    computed = [name for name in names if name != image]
    session = open_session(show_values(model, computed, onnx.TensorProto.FLOAT))
    generator = np.random.default_rng(0)
    samples: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    shares: dict[str, NDArray[np.float32]] = {}
    for call in calls:
        results = session.run(computed, {image: call}) if computed else []
        for name, activation in zip([*computed, *inputs], [*results, *[call for _ in inputs]], strict=True):
            kept, shares[name] = sample(activation.reshape(_images_of(activation, call), -1), generator)
            samples[name].append(kept)
    return {name: choose_grid(np.concatenate(samples[name]), shares[name]) for name in names}


def _images_of(activation: NDArray[Any], call: NDArray[Any]) -> int:
    """Of how many images an activation holds values: all of a call, unless its first axis is another."""
    return len(call) if activation.ndim and len(activation) == len(call) else 1

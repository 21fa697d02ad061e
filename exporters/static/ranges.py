"""Which range of an activation its 8 bits should cover."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeresnet.evaluation import images_at_once
from exporters.sessions import open_session, show_values

LEVELS: Final = 255
# Of the error that a range is chosen by: between the square, under which rare large activations count for little, and the maximum,
# under which they count alone. A CIFAR ResNet-18 on images that took no part: 34.0 dB with squares, 35.3 with 2.5, 35.2 with 3, 35.3
# with 4, 34.9 without clipping.
ERROR_POWER: Final = 2.5
# Candidates are the range that was seen, shrunk by these factors.
SHRINKING: Final = np.linspace(0.3, 1, 36)
BATCH: Final = 32
# Values of an activation that are kept of each batch of ``BATCH``.
SAMPLE: Final = 20_000


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


def choose_grid(sample: NDArray[np.float32], low: float, high: float) -> Grid:
    """The grid of least error on a sample: clipping few large values makes the steps finer for all others.

    Args:
        sample: float32 (n,).
        low: Smallest value that was seen, in the sample or not.
        high: Largest value.
    """
    grids = [Grid.covering(factor * low, factor * high) for factor in SHRINKING]
    errors = [(np.abs(grid.round(sample) - sample) ** ERROR_POWER).mean() for grid in grids]
    return grids[int(np.argmin(errors))]


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
    low, high = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for call in calls:
        results = session.run(computed, {image: call}) if computed else []
        for name, activation in zip([*computed, *inputs], [*results, *[call for _ in inputs]], strict=True):
            values = activation.reshape(-1)
            count = max(1, SAMPLE * len(call) // BATCH)
            samples[name].append(values[generator.integers(0, values.size, count)])
            low[name], high[name] = min(low[name], float(values.min())), max(high[name], float(values.max()))
    return {name: choose_grid(np.concatenate(samples[name]), low[name], high[name]) for name in names}

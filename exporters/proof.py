"""How close one model's answers are to another's: every output, and within an output every unit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from exporters.probes import Probe
from exporters.sessions import open_session, run_session

# Amplitude of an output below which a unit's own values count as rounding of float32 sums, whose steps are 6e-8.
ROUNDING: Final = 1e-6
# Integers of these types are amounts (pixels); of others they are names of classes and indices, which are right or wrong.
AMOUNTS: Final = frozenset({"int8", "int16", "uint8", "uint16"})
PROBABILITIES: Final = frozenset({"Softmax", "Sigmoid"})
_SAME_VALUES: Final = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})

Answers = tuple[tuple[dict[str, NDArray[Any]], ...], ...]


@dataclass(frozen=True, kw_only=True)
class OutputFidelity:
    """What an output reached.

    Attributes:
        output: Its name.
        sqnr_db: Of its worst unit on the kind of images that is worst: the unit's power over that of the error, in dB. For names of classes
            and indices 20 lg of the share that differs. Not a number's: minus infinity where a value is NaN or infinite that should not be,
            or a shape differs.
        whole_db: Of the output as a whole, on those images.
        unit: Which unit it is, empty where all are one.
        images: Kind of images.
        problem: What is wrong, if it is more than an error in size.
    """

    output: str
    sqnr_db: float
    whole_db: float
    unit: str
    images: str
    problem: str = ""

    def __str__(self) -> str:
        where = f" in {self.unit} (as a whole {self.whole_db:.1f})" if self.unit else ""
        return f"output {self.output}: {self.problem or f'{self.sqnr_db:.1f} dB{where}'} on {self.images}"


@dataclass(frozen=True, kw_only=True)
class Proof:
    """How close the answers are.

    Attributes:
        outputs: What each output reached, in the order of the model.
        count: Number of images that it was measured on.
        measured_on: What they are.
    """

    outputs: tuple[OutputFidelity, ...]
    count: int
    measured_on: str

    @property
    def worst(self) -> OutputFidelity:
        """The output that is furthest from the original's."""
        return min(self.outputs, key=lambda output: (not output.problem, output.sqnr_db))

    @property
    def sqnr_db(self) -> float:
        """Of the worst unit of all outputs."""
        return self.worst.sqnr_db


def collect_answers(model: bytes, image_name: str, probes: Sequence[Probe]) -> Answers:
    """Run a model on images of several kinds, one call at a time.

    Returns:
        For each kind and each of its calls, the outputs by name.

    Raises:
        ExportError: If ONNX Runtime cannot load or run it.
    """
    session = open_session(model)
    return tuple(tuple(run_session(session, {image_name: call}) for call in probe.calls) for probe in probes)


def compare_answers(original: Answers, answers: Answers, probes: Sequence[Probe], probabilities: frozenset[str] = frozenset()) -> Proof:
    """Hold a model's answers against the original's.

    An output is measured in groups: for each axis and each index along it, all values there, over all images of a kind. So a channel
    that is large cannot hide one that is small, whichever axis the channels are on. A group that never changes in the original is
    held against the output as a whole: there is nothing in it to be right about.

    Args:
        original: Answers of the original.
        answers: Of the other model, for the same images.
        probes: Those images.
        probabilities: Outputs that are probabilities throughout, whose values have one scale: there a group counts as at least the
            whole (among 1,000 classes most are never likely).
    """
    names = list(original[0][0])
    outputs = []
    for name in names:
        found = [
            _compare_output(
                name, [call[name] for call in right], [call.get(name) for call in got], probe.name, shares_scale=name in probabilities
            )
            for right, got, probe in zip(original, answers, probes, strict=True)
        ]
        worst = min(found, key=lambda output: (not output.problem, output.sqnr_db))
        if not worst.problem and not any(_has_values(call[name]) for right in original for call in right):
            problem = "has no values on these images, so that nothing can be said of it"
            worst = replace(worst, sqnr_db=-math.inf, whole_db=-math.inf, images=describe_probes(probes), problem=problem)
        outputs.append(worst)
    return Proof(
        outputs=tuple(outputs),
        count=sum(probe.count for probe in probes),
        measured_on=describe_probes(probes),
    )


def describe_probes(probes: Sequence[Probe]) -> str:
    """Names of the kinds of images, each with its forms."""
    forms: dict[str, list[str]] = {}
    for probe in probes:
        name, _, form = probe.name.partition(", ")
        forms.setdefault(name, []).extend([form] if form else [])
    return "; ".join(f"{name} ({', '.join(used)})" if used else name for name, used in forms.items())


def find_probabilities(model: onnx.ModelProto) -> frozenset[str]:
    """Outputs that a Softmax or Sigmoid gives, as they are or in another shape."""
    producers = {name: node for node in model.graph.node for name in node.output}
    found = set()
    for output in model.graph.output:
        node = producers.get(output.name)
        while node is not None and node.op_type in _SAME_VALUES:
            node = producers.get(node.input[0])
        if node is not None and node.op_type in PROBABILITIES:
            found.add(output.name)
    return frozenset(found)


@dataclass
class _Groups:
    """Sums over the groups of one axis."""

    noise: NDArray[np.float64]
    power: NDArray[np.float64]
    count: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @classmethod
    def empty(cls, length: int) -> "_Groups":
        return cls(np.zeros(length), np.zeros(length), np.zeros(length), np.full(length, np.inf), np.full(length, -np.inf))

    def add(self, right: NDArray[np.float64], error: NDArray[np.float64], finite: NDArray[np.bool_], axes: tuple[int, ...]) -> None:
        self.noise += np.square(error).sum(axis=axes)
        self.power += np.square(right).sum(axis=axes)
        self.count += finite.sum(axis=axes)
        self.low = np.minimum(self.low, np.where(finite, right, np.inf).min(axis=axes, initial=np.inf))
        self.high = np.maximum(self.high, np.where(finite, right, -np.inf).max(axis=axes, initial=-np.inf))

    def decibels(self, *, shares_scale: bool) -> NDArray[np.float64]:
        count = np.maximum(self.count, 1)
        noise, power = self.noise / count, self.power / count
        whole = self.power.sum() / max(self.count.sum(), 1)
        least = np.where((self.low >= self.high) | shares_scale, whole, ROUNDING**2 * whole)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = 10 * np.log10(np.maximum(power, least) / noise)
        return np.where(noise > 0, np.where(np.isnan(ratio), -np.inf, ratio), np.inf)


def _has_values(value: NDArray[Any]) -> bool:
    return value.size > 0 and (value.dtype.kind != "f" or bool(np.isfinite(value).any()))


def _compare_output(
    name: str, original: Sequence[NDArray[Any]], answers: Sequence[NDArray[Any] | None], images: str, *, shares_scale: bool
) -> OutputFidelity:
    def problem(text: str) -> OutputFidelity:
        return OutputFidelity(output=name, sqnr_db=-math.inf, whole_db=-math.inf, unit="", images=images, problem=text)

    whole = _Groups.empty(1)
    fixed = original[0].shape if len({value.shape[1:] for value in original}) == 1 else ()
    axes = {axis: _Groups.empty(length) for axis, length in enumerate(fixed) if axis > 0 and length > 1}
    is_name = original[0].dtype.kind in "biuOSU" and original[0].dtype.name not in AMOUNTS
    for right, got in zip(original, answers, strict=True):
        if got is None or right.shape != got.shape:
            return problem(f"has the shape {None if got is None else got.shape} where the original has {right.shape}")
        if is_name:
            expected, error, finite = np.ones(right.shape), (right != got).astype(np.float64), np.ones(right.shape, bool)
        else:
            finite = np.isfinite(right)
            alike = np.isnan(right) & np.isnan(got) | (right == got)
            if not (np.isfinite(got) | alike).all() or not (finite | alike).all():
                return problem("is NaN or infinite where the original is not, or the other way round")
            expected = np.where(finite, right, 0).astype(np.float64)
            error = np.where(finite, got, 0).astype(np.float64) - expected
        whole.add(expected.reshape(-1, 1), error.reshape(-1, 1), finite.reshape(-1, 1), (0,))
        for axis, groups in axes.items():
            groups.add(expected, error, finite, tuple(other for other in range(right.ndim) if other != axis))
    whole_db = float(whole.decibels(shares_scale=False)[0])
    if is_name:
        # The share that differs, as an amplitude.
        return OutputFidelity(output=name, sqnr_db=2 * whole_db, whole_db=2 * whole_db, unit="", images=images)
    worst_db, unit = whole_db, ""
    for axis, groups in axes.items():
        found = groups.decibels(shares_scale=shares_scale)
        index = int(found.argmin())
        if found[index] < worst_db:
            worst_db, unit = float(found[index]), f"unit {index} of axis {axis}"
    return OutputFidelity(output=name, sqnr_db=worst_db, whole_db=whole_db, unit=unit, images=images)

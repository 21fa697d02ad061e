"""How close one model's answers are to another's: every output, and within an output every unit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeresnet.errors import ExportError
from exporters.parts import Parts
from exporters.probes import Probe
from exporters.sessions import open_session, run_session

# Of the median amplitude of the units of a part, as which a smaller unit counts at least. Of any layer's units some hardly ever
# speak; their few values are wrong by what the others' are wrong by, and nobody can tell them from noise. (An untrained network of three
# layers, 32 units: 54 dB as a whole, 17 dB for a unit of a 70th of the others' amplitude.)
LEAST_SHARE: Final = 0.2
# Of the amplitude of the largest unit: what is smaller is noise in the original too, whose sums are float32.
RESOLUTION: Final = 1e-6
# Rows and columns of a map are joined to so many bands: errors gather where something is seen, and most rows show nothing.
BANDS: Final = 8
# Amplitude of probabilities, of the original's and of the error too, that say nothing.
SILENT: Final = 0.01
# Integers of these types are amounts (pixels); of others they are names of classes and indices, which are right or wrong.
AMOUNTS: Final = frozenset({"int8", "int16", "uint8", "uint16"})

# Calls that ``find_hardest`` gives.
HARDEST: Final = 4

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
        silent: Whether all that it says on those images, in both models, is that there is nothing: probabilities near zero.
    """

    output: str
    sqnr_db: float
    whole_db: float
    unit: str
    images: str
    problem: str = ""
    silent: bool = False

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


def compare_answers(original: Answers, answers: Answers, probes: Sequence[Probe], parts: Mapping[str, Parts] | None = None) -> Proof:
    """Hold a model's answers against the original's.

    An output is measured in groups: for each axis and each index along it, all values there, over all images of a kind. So a channel
    that is large cannot hide one that is small, whichever axis the channels are on. A group counts as at least ``LEAST_SHARE`` of the
    median of its part's groups; parts are what a Concat joined, such as coordinates and scores. Of a map, rows and columns are
    taken in bands.

    Args:
        original: Answers of the original.
        answers: Of the other model, for the same images.
        probes: Those images.
        parts: Of which parts outputs are put together. In one of probabilities throughout, whose values have one scale, a group counts
            as at least the whole (among 1,000 classes most are never likely).

    Raises:
        ExportError: If a sequence of tensors is sometimes longer.
    """
    names = list(original[0][0])
    outputs = []
    if varying := [name for right in original for call in right for name in call.keys() ^ set(names)]:
        raise ExportError(f"the number of tensors in a sequence depends on the images ({min(varying)}), and cannot be compared")
    for name in names:
        found = [
            _compare_output(
                name, [call[name] for call in right], [call.get(name) for call in got], probe.name, (parts or {}).get(name, Parts())
            )
            for right, got, probe in zip(original, answers, probes, strict=True)
        ]
        # Where a probability is as good as zero in both, nothing is seen there; it counts where the other images show no more.
        speaking = [output for output in found if not output.silent] or found
        worst = min(speaking, key=lambda output: (not output.problem, output.sqnr_db))
        if not worst.problem and not any(_has_values(call[name]) for right in original for call in right):
            problem = "has no values on these images, so that nothing can be said of it"
            worst = replace(worst, sqnr_db=-math.inf, whole_db=-math.inf, images=describe_probes(probes), problem=problem)
        outputs.append(worst)
    return Proof(
        outputs=tuple(outputs),
        count=sum(probe.count for probe in probes),
        measured_on=describe_probes(probes),
    )


def find_hardest(original: Answers, answers: Answers, probes: Sequence[Probe], worst: OutputFidelity) -> tuple[Probe, ...]:
    """The calls on which an output is furthest off, of the kind of images that it is worst on; each by itself.

    They decide how far off it is: of 48 images one may make nearly all of the error.

    Args:
        original: Answers of the original.
        answers: Of the other model.
        probes: Images of both.
        worst: The output.
    """
    found = [
        (_noise(expected[worst.output], got.get(worst.output)), Probe(name=probe.name, calls=(call,), generated=probe.generated))
        for probe, right, answered in zip(probes, original, answers, strict=True)
        for call, expected, got in zip(probe.calls, right, answered, strict=True)
        if probe.name == worst.images
    ]
    return tuple(probe for _, probe in sorted(found, key=lambda pair: -pair[0])[:HARDEST])


def _noise(right: NDArray[Any], got: NDArray[Any] | None) -> float:
    """Power of the error of one call; infinite where it cannot be told."""
    if _find_problem(right, got):
        return math.inf
    _, error, _ = _measure_call(right, got)
    return float(np.square(error).sum())


def describe_probes(probes: Sequence[Probe]) -> str:
    """Names of the kinds of images, each with its forms."""
    forms: dict[str, list[str]] = {}
    for probe in probes:
        name, _, form = probe.name.partition(", ")
        forms.setdefault(name, []).extend([form] if form else [])
    return "; ".join(f"{name} ({', '.join(used)})" if used else name for name, used in forms.items())


class _Groups:
    """Sums over the groups of one axis."""

    def __init__(self, length: int) -> None:
        self.noise, self.power, self.count = np.zeros(length), np.zeros(length), np.zeros(length)

    def add(self, right: NDArray[np.float64], error: NDArray[np.float64], finite: NDArray[np.bool_], axes: tuple[int, ...]) -> None:
        self.noise += np.square(error).sum(axis=axes)
        self.power += np.square(right).sum(axis=axes)
        self.count += finite.sum(axis=axes)

    def joined(self, count: int) -> "_Groups":
        """Neighbouring groups as one, so that there are ``count`` or fewer."""
        starts = np.unique(np.linspace(0, len(self.count), count, endpoint=False).astype(int))
        bands = _Groups(len(starts))
        bands.noise, bands.power, bands.count = (np.add.reduceat(sums, starts) for sums in (self.noise, self.power, self.count))
        return bands

    @property
    def amplitude(self) -> float:
        """The larger of what the original and the error have, over all groups."""
        return math.sqrt(max(self.power.sum(), self.noise.sum()) / max(self.count.sum(), 1))

    def decibels(self, parts: Parts, boundaries: Sequence[int] = ()) -> NDArray[np.float64]:
        """SQNR of each group."""
        count = np.maximum(self.count, 1)
        noise, power = self.noise / count, self.power / count
        if parts.are_probabilities:
            least = np.full(len(power), self.power.sum() / max(self.count.sum(), 1))
        else:
            pieces = np.split(power, boundaries)
            least = np.concatenate([np.full(len(piece), LEAST_SHARE**2 * _median_of_speaking(piece)) for piece in pieces])
            least = np.maximum(least, RESOLUTION**2 * power.max(initial=0))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = 10 * np.log10(np.maximum(power, least) / noise)
        return np.where(noise > 0, ratio, np.inf)


def _median_of_speaking(power: NDArray[np.float64]) -> float:
    """Where most units are exactly zero, as behind a Relu, the others tell what is large."""
    speaking = power[power > 0]
    return float(np.median(speaking)) if len(speaking) else 0.0


def _has_values(value: NDArray[Any]) -> bool:
    return value.size > 0 and (value.dtype.kind != "f" or bool(np.isfinite(value).any()))


def _compare_output(
    name: str, original: Sequence[NDArray[Any]], answers: Sequence[NDArray[Any] | None], images: str, parts: Parts
) -> OutputFidelity:
    whole = _Groups(1)
    shapes = {value.shape for value in original}
    lengths = original[0].shape if len({shape[1:] for shape in shapes}) == 1 else ()
    axes = {axis: _Groups(length) for axis, length in enumerate(lengths) if length > 1 and (axis > 0 or len(shapes) == 1)}
    are_names = _are_names(original[0])
    for right, got in zip(original, answers, strict=True):
        if problem := _find_problem(right, got):
            return OutputFidelity(output=name, sqnr_db=-math.inf, whole_db=-math.inf, unit="", images=images, problem=problem)
        expected, error, finite = _measure_call(right, got)
        whole.add(expected.reshape(-1, 1), error.reshape(-1, 1), finite.reshape(-1, 1), (0,))
        for axis, groups in axes.items():
            groups.add(expected, error, finite, tuple(other for other in range(right.ndim) if other != axis))
    whole_db = float(whole.decibels(Parts())[0])
    if are_names:
        # The share that differs, as an amplitude.
        return OutputFidelity(output=name, sqnr_db=2 * whole_db, whole_db=2 * whole_db, unit="", images=images)
    worst_db, unit = whole_db, ""
    for axis, groups in axes.items():
        is_place = axis in parts.image_axes
        found = groups.joined(BANDS).decibels(parts) if is_place else groups.decibels(parts, parts.boundaries.get(axis, ()))
        index = int(found.argmin())
        if found[index] < worst_db:
            worst_db, unit = float(found[index]), f"{'band' if is_place else 'unit'} {index} of axis {axis}"
    silent = parts.are_probabilities and whole.amplitude < SILENT
    return OutputFidelity(output=name, sqnr_db=worst_db, whole_db=whole_db, unit=unit, images=images, silent=silent)


def _are_names(value: NDArray[Any]) -> bool:
    return value.dtype.kind in "biuOSU" and value.dtype.name not in AMOUNTS


def _measure_call(right: NDArray[Any], got: NDArray[Any] | None) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """What one call of the original answers, what the other's is off by, and which values count; names are right (0) or wrong (1)."""
    if _are_names(right):
        return np.ones(right.shape), (right != got).astype(np.float64), np.ones(right.shape, bool)
    finite = np.isfinite(right)
    expected = np.where(finite, right, 0).astype(np.float64)
    return expected, np.where(finite, got, 0).astype(np.float64) - expected, finite  # type: ignore[arg-type]


def _find_problem(right: NDArray[Any], got: NDArray[Any] | None) -> str:
    if got is None or right.shape != got.shape:
        return f"has the shape {None if got is None else got.shape} where the original has {right.shape}"
    if right.dtype.kind != "f":
        return ""
    same = (right == got) | (np.isnan(right) & np.isnan(got))
    if (np.isfinite(right) & np.isfinite(got) | same).all():
        return ""
    return "is NaN or infinite where the original is not, or the other way round"

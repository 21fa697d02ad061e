"""A model in one form of INT8, as good as it gets: what does not pay stays in FP32, and here it must win its race."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from numpy.typing import NDArray

from edgeresnet.errors import ExportError
from edgeresnet.progress import Track
from edgeresnet.race import Open, RaceResult, estimate_speedup, race
from exporters.budget import Candidate, Form, Search
from exporters.int8.quantize import LayerChoice, QuantizedModel
from exporters.sessions import open_session, run_session

# Of what a layer takes in FP32; layers that take more in INT8 are tried in FP32. Beside that INT8 layers cost the turning of values to
# rows and back, which belongs to none of them: so layers that gain too little to pay for it are tried too.
PAYING_SHARES: Final = (1.25, 0.85, 0.6)
# By which the whole network must gain from leaving more layers, for certain, since that costs size.
WORTH_LEAVING: Final = 1.03
# Of a network with so few layers in INT8 (those that share weights count once), each is tried in FP32 by itself where the race is not won:
# the nodes around products are a large part of its time, and no layer's own time has them.
FEW_LAYERS: Final = 5
# By which the quantized model must win its race, for certain. Processes differ: of 42 files that had won by anything at all, one was
# measured at 0.996 by the next (a tie, 0.98 to 1.01). By 1 % would refuse small networks that are a quarter as large and as fast.
LEAST_SPEEDUP: Final = 1.005
# Of the highest speedup that it may have over the lowest: where nothing else ran they were up to 1.23 apart, beside a program that kept one
# of two cores busy 2.6, since a call on every core waits for the one that is taken.
DISTURBED: Final = 1.3


class DoesNotPayError(ExportError):
    """A form is larger or slower than the model that it was made from."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A model that is within the budget, smaller than the user's and, if it is for this machine, certainly faster.

    Attributes:
        precision: One of ``PRECISIONS``.
        candidate: The model and its proof.
        content: The file.
        race: Against the user's file; None if it is for a processor that is not here.
        layers: What became of each layer, with its own error and, for this machine, its time.
    """

    precision: str
    candidate: Candidate
    content: bytes
    race: RaceResult | None
    layers: tuple[LayerChoice, ...]


def attempt(search: Search, feeds: Mapping[str, NDArray[Any]], fp32_ms: Mapping[str, float], track: Track) -> Attempt:
    """Find the largest set of layers in INT8 that is within the budget and pays.

    Args:
        search: Of the form.
        feeds: What it is timed on.
        fp32_ms: Time of each layer of the user's model.
        track: Progress reporter.

    Raises:
        DoesNotPayError: If that is larger, or not certainly faster by ``LEAST_SPEEDUP``.
        ExportError: If there is none within the budget.
    """
    source, times = search.original.prepared.source, _LayerTimes(feeds, fp32_ms, search.form)
    candidate = search.find_largest(_leave_what_does_not_pay(search, times, track))
    result = _race(feeds, source, candidate, track)
    while not result.lower >= LEAST_SPEEDUP and (other := _leave_one(search, candidate, feeds, len(source), track)) is not None:
        candidate = other
        result = _race(feeds, source, candidate, track)
    content = _finish(search, candidate)
    if not result.lower >= LEAST_SPEEDUP:
        raise DoesNotPayError(_describe_loss(result, candidate))
    int8 = times.int8(candidate.quantized)
    layers = tuple(
        replace(layer, fp32_ms=times.fp32.get(layer.name), int8_ms=int8.get(layer.name)) for layer in _describe_layers(candidate, search)
    )
    return Attempt(precision=search.form.precision, candidate=candidate, content=content, race=result, layers=layers)


def attempt_untimed(search: Search, left: Mapping[str, str]) -> Attempt:
    """Find the largest set of layers in INT8 that is within the budget, for a processor that is not here: nothing is timed.

    Args:
        search: Of the form.
        left: Layers that stay in FP32 since they do not pay there, each with the reason.

    Raises:
        DoesNotPayError: If the result is larger.
        ExportError: If there is none within the budget.
    """
    candidate = search.find_largest(left)
    content, layers = _finish(search, candidate), _describe_layers(candidate, search)
    return Attempt(precision=search.form.precision, candidate=candidate, content=content, race=None, layers=layers)


def _finish(search: Search, candidate: Candidate) -> bytes:
    """The file, which must be smaller."""
    content, before = search.finish(candidate), len(search.original.prepared.source)
    if len(content) >= before:
        raise DoesNotPayError(f"the result would be larger: {len(content):,} bytes, the original has {before:,}; nothing was written")
    return content


def _race(feeds: Mapping[str, NDArray[Any]], source: bytes, candidate: Candidate, track: Track) -> RaceResult:
    return race(*contestants(feeds, source, candidate.content), track, least=LEAST_SPEEDUP)


def contestants(feeds: Mapping[str, NDArray[Any]], first: bytes, second: bytes) -> tuple[Open, Open]:
    """Two models for a race."""
    return partial(_open, first, feeds), partial(_open, second, feeds)


def _open(model: bytes, feeds: Mapping[str, NDArray[Any]]) -> Callable[[], object]:
    return partial(run_session, open_session(model), feeds)


class _LayerTimes:
    """How long each layer takes in both forms."""

    def __init__(self, feeds: Mapping[str, NDArray[Any]], fp32: Mapping[str, float], form: Form) -> None:
        self.feeds, self.fp32, self._form = feeds, fp32, form

    def int8(self, quantized: QuantizedModel) -> dict[str, float]:
        return self._form.time_layers(quantized, self.feeds)

    def find_slow(self, quantized: QuantizedModel, taken: Mapping[str, float], share: float) -> dict[str, str]:
        """Layers that take more than a share of what they take in FP32, each with the reason; none if all do.

        Layers that share their weights stay together: otherwise the file would keep those twice.
        """
        slow: dict[str, str] = {}
        for group in quantized.sharing():
            int8, fp32 = (sum(times.get(name, 0.0) for name in group) for times in (taken, self.fp32))
            if int8 > share * fp32 > 0:
                slow |= dict.fromkeys(group, f"does not pay: {int8:.3g} ms in INT8, {fp32:.3g} in FP32")
        return slow if len(slow) < sum(layer.quantized for layer in quantized.layers) else {}


def _leave_what_does_not_pay(search: Search, times: _LayerTimes, track: Track) -> dict[str, str]:
    """Layers that stay in FP32 because the whole network is then clearly faster, each with the reason."""
    best = everything = search.quantize({})
    taken, left = times.int8(everything), dict[str, str]()
    for share in PAYING_SHARES:
        slow = times.find_slow(everything, taken, share)
        if len(slow) <= len(left):
            continue
        tried = search.quantize(slow)
        both = contestants(times.feeds, best.model.SerializeToString(), tried.model.SerializeToString())
        # A few rounds beside other work left 15 of a ResNet-18's 21 layers in FP32, of which 2 did not pay on a quiet machine.
        if race(*both, track, least=WORTH_LEAVING).lower > WORTH_LEAVING:
            best, left = tried, slow
    return left


def _leave_one(search: Search, candidate: Candidate, feeds: Mapping[str, NDArray[Any]], size_bytes: int, track: Track) -> Candidate | None:
    """The model with one more layer in FP32, that without which it is fastest and smaller than so many bytes.

    None if it is slower without any of them, or there are many.
    """
    groups = candidate.quantized.sharing()
    if not 1 < len(groups) <= FEW_LAYERS:
        return None
    left = {layer.name: layer.reason for layer in candidate.quantized.layers if not layer.quantized}
    gains = []
    for group in groups:
        content = search.quantize(left | dict.fromkeys(group, "tried in FP32")).model.SerializeToString()
        if len(content) < size_bytes:
            gains.append((estimate_speedup(*contestants(feeds, candidate.content, content), track), group))
    gain, group = max(gains, default=(0.0, []))
    if gain <= 1:
        return None
    other = search.judge(search.quantize(left | dict.fromkeys(group, f"does not pay: the network takes {gain:.2f} times as long with it")))
    return None if search.complaint(other) else other


def _describe_loss(result: RaceResult, candidate: Candidate) -> str:
    lost = result.upper < 1
    verdict = "is slower" if lost else "may be slower" if result.lower < 1 else "is hardly faster"
    disturbed = not lost and result.upper > DISTURBED * result.lower
    count = sum(layer.quantized for layer in candidate.quantized.layers)
    return (
        f"INT8 {verdict} here ({result.lower:.2f} to {result.upper:.2f}x), with {count} layers in it "
        f"and outputs {candidate.proof.sqnr_db:.1f} dB from the original's: {result.second_ms:.2f} against {result.first_ms:.2f} ms; "
        f"nothing was written{'; fix: try again when no other program needs the cores' if disturbed else ''}"
    )


def _describe_layers(candidate: Candidate, search: Search) -> tuple[LayerChoice, ...]:
    errors = search.sensitivity(candidate.quantized).own_errors()
    return tuple(replace(layer, sqnr_db=errors.get(layer.name)) for layer in candidate.quantized.layers)

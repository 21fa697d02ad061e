"""What is kept of a run, and its table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.intervals import Estimate, estimate_median, estimate_paired_ratio
from benchmarks.studies.peers.roster import ORIGINAL, OUR_INT8, Peer
from benchmarks.studies.peers.rounds import Visits
from edgeresnet.evaluation import Parity

SCHEMA: Final = "edgeresnet.peers/1"


@dataclass(frozen=True, kw_only=True)
class PeerResult:
    """One peer.

    Attributes:
        name: Runtime and form.
        versions: Of the distributions that made and ran it.
        failure: Why there are no figures; None if there are.
        doubt: Why its times should not be believed; None where nothing speaks against them.
        size_bytes: Of its files.
        p50_ms: Median time of a call with one image, with its 95 % interval over rounds that were undisturbed.
        speedup_vs_pytorch: Median of PyTorch over its own, of the same rounds: above 1 it is faster. None where either is doubtful.
        speedup_vs_our_int8: Likewise of our dynamic INT8 file.
        sqnr_db: Of its logits against the original's.
        agreement: Fraction of images with the original's top-1 class.
        rounds_ms: Times of all calls, a list for each round.
        disturbed: Why a round does not count, by its number from 0.
    """

    name: str
    versions: dict[str, str]
    failure: str | None = None
    doubt: str | None = None
    size_bytes: int | None = None
    p50_ms: Estimate | None = None
    speedup_vs_pytorch: Estimate | None = None
    speedup_vs_our_int8: Estimate | None = None
    sqnr_db: float | None = None
    agreement: float | None = None
    rounds_ms: list[list[float]] | None = None
    disturbed: dict[int, str] | None = None


def summarize(peer: Peer, versions: dict[str, str], size_bytes: int, parity: Parity, visits: Mapping[str, Visits]) -> PeerResult:
    """The figures of a peer that was timed to the end, among those of all that were."""
    own = visits[peer.name]
    return PeerResult(
        name=peer.name,
        versions=versions,
        doubt=own.doubt,
        size_bytes=size_bytes,
        p50_ms=estimate_median(own.believed),
        speedup_vs_pytorch=_compare(visits.get(ORIGINAL), own),
        speedup_vs_our_int8=_compare(visits.get(OUR_INT8), own),
        sqnr_db=parity.sqnr_db,
        agreement=parity.agreement,
        rounds_ms=[[round(call, 4) for call in own.rounds[number]] for number in sorted(own.rounds)],
        disturbed=own.doubts,
    )


def _compare(reference: Visits | None, own: Visits) -> Estimate | None:
    if reference is None or reference.doubt is not None or own.doubt is not None:
        return None
    above, below = reference.believed, own.believed
    return estimate_paired_ratio(above, below) if above.keys() & below.keys() else None


def tabulate(record: Mapping[str, Any]) -> str:
    """The record as a Markdown table; intervals are in brackets."""
    lines = [
        "| runtime and form | MB | p50 ms | against PyTorch | against our INT8 | SQNR | agreement |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for peer in record["peers"]:
        if peer["failure"] is not None:
            reason = peer["failure"].replace("|", "\\|")
            lines.append(f"| {peer['name']} | failed: {reason} | | | | | |")
            continue
        cells = (
            f"{peer['size_bytes'] / 1e6:.1f}",
            _cell(peer["p50_ms"]) + (", doubtful" if peer["doubt"] is not None else ""),
            _cell(peer["speedup_vs_pytorch"], "x"),
            _cell(peer["speedup_vs_our_int8"], "x"),
            f"{peer['sqnr_db']:.1f} dB",
            f"{peer['agreement']:.1%}",
        )
        lines.append(f"| {peer['name']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(estimate: Mapping[str, Any] | None, unit: str = "") -> str:
    if estimate is None:
        return "-"
    interval = estimate["interval"]
    sureness = f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
    return f"{estimate['value']:.2f}{unit}{sureness}"

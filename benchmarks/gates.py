"""Conditions under which a comparison fails, such as ``p50>+5%``: their grammar and their judgement."""

import re
from dataclasses import dataclass
from typing import Final, Self

from benchmarks.changes import FIGURES, Change
from benchmarks.compare import Comparison, Pair

GRAMMAR: Final = "FIGURE>+N% or FIGURE<-N%, of top1 and agreement in points without the %, such as p50>+5% or top1<-0.1"
_EXPRESSION: Final = re.compile(r"\s*(\w+)\s*([<>])\s*([+-]?)(\d+(?:\.\d+)?)\s*(%?)\s*", re.ASCII)
# A record has one figure of these, so how they scatter is not known.
_JUDGED_BY_SIZE: Final = frozenset({"load", "memory", "size"})


@dataclass(frozen=True)
class Gate:
    """A change that is not accepted.

    Attributes:
        text: As the user wrote it.
        figure: One of ``FIGURES``.
        bound: Largest change that is accepted, as in ``Change.change``.
        rising: Whether it is an increase.
    """

    text: str
    figure: str
    bound: float
    rising: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an expression.

        Raises:
            ValueError: If it is none, or can never hold; says how one is written.
        """
        parts = _EXPRESSION.fullmatch(text)
        if parts is None:
            raise ValueError(f"{text!r} is not {GRAMMAR}")
        figure, relation, sign, number, percent = parts.groups()
        if figure not in FIGURES:
            raise ValueError(f"{text!r}: there is no figure {figure!r}; choose from {', '.join(FIGURES)}")
        if sign != ("+" if relation == ">" else "-"):
            raise ValueError(f"{text!r}: {relation} goes with a {'+' if relation == '>' else '-'}: {GRAMMAR}")
        is_share = FIGURES[figure].is_share
        if is_share == bool(percent):
            raise ValueError(f"{text!r}: changes of {figure} are {'in points, without' if is_share else 'relative, with'} a %: {GRAMMAR}")
        bound = float(f"{sign}{number}") / 100
        if abs(bound) >= 1 and (is_share or relation == "<"):
            raise ValueError(f"{text!r} can never hold: {figure} cannot change by that much")
        return cls(text.strip(), figure, bound, relation == ">")

    def fails(self, change: Change) -> bool | None:
        """Whether a change is significant and beyond the bound; None where that cannot be known."""
        if change.change is None:
            return None
        # A change of exactly the bound is accepted, also where subtracting shares leaves a rest.
        beyond = change.change > self.bound + 1e-9 if self.rising else change.change < self.bound - 1e-9
        if self.figure in _JUDGED_BY_SIZE or not beyond:
            return beyond if self.figure in _JUDGED_BY_SIZE or change.significant is not None else None
        return change.significant


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a gate found.

    Attributes:
        gate: Its expression.
        passed: Whether it looked at something and all of that is accepted.
        failures: What is not accepted, in words.
        checked: Number of figures that it could judge.
        unchecked: What it could not judge and why, in words.
    """

    gate: str
    passed: bool
    failures: list[str]
    checked: int
    unchecked: list[str]


def judge(gate: Gate, comparison: Comparison) -> Judgement:
    """Hold a comparison against a gate.

    A gate that could judge nothing does not pass: it would go on for years looking at nothing. Nor does one where a model could be measured
    for the old record and no longer for the new one.
    """
    failures = [f"{pair.name}: {pair.reason}" for pair in comparison.pairs if pair.broke]
    unchecked = [f"{pair.name}: {pair.reason}" for pair in comparison.pairs if pair.reason is not None and not pair.broke]
    unchecked += [f"{name}: only in the {which} record" for which in ("old", "new") for name in getattr(comparison, f"only_{which}")]
    checked = 0
    for pair, change in comparison.changes:
        if change.figure != gate.figure:
            continue
        fails = gate.fails(change)
        if fails is None:
            unchecked.append(f"{_place(pair, change)}: {change.reason}")
            continue
        checked += 1
        if fails:
            failures.append(f"{_place(pair, change)}: {describe_change(change)}")
    unchecked += [
        f"{pair.name}: {gate.figure} is not in both records"
        for pair in comparison.pairs
        if pair.reason is None and gate.figure not in {change.figure for change in pair.changes}
    ]
    return Judgement(gate=gate.text, passed=bool(checked) and not failures, failures=failures, checked=checked, unchecked=unchecked)


def describe_change(change: Change) -> str:
    """A change with its interval: ``+5.1 % (99 % interval +4.0 % to +6.2 %)``, or in points."""
    if change.change is None:
        return "-"
    interval = change.interval99
    within = f" (99 % interval {show_size(change, interval[0])} to {show_size(change, interval[1])})" if interval is not None else ""
    return show_size(change, change.change) + within


def show_size(change: Change, value: float) -> str:
    """How large a change of this figure is: in percent, of shares in points."""
    return f"{100 * value:+.2f} points" if FIGURES[change.figure].is_share else f"{100 * value:+.1f} %"


def _place(pair: Pair, change: Change) -> str:
    return ", ".join(part for part in (pair.name, change.figure, change.conditions) if part)

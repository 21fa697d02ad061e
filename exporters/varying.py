"""Outputs whose size depends on what an image shows: they are proven by what decides it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import onnx

from edgeresnet.errors import ExportError
from exporters.probes import Probe
from exporters.proof import Answers, collect_answers

# How many results they give depends on values. Two models agree on those values or differ a little; of results there is one more or less.
DECIDING: Final = frozenset({"NonMaxSuppression", "NonZero", "Unique", "Compress"})


@dataclass(frozen=True)
class _Decision:
    """A deciding node of a model and the outputs that come from it."""

    operator: str
    result: str
    inputs: tuple[str, ...]
    outputs: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class VaryingOutputs:
    """Which outputs of a model vary in size, and what they come from.

    Attributes:
        names: The outputs.
        behind: Results of nodes behind a deciding one: what is computed there cannot be compared, and must be as in the original.
    """

    names: frozenset[str]
    behind: frozenset[str]
    decisions: tuple[_Decision, ...]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> "VaryingOutputs":
        """Find them."""
        constants = {tensor.name for tensor in model.graph.initializer}
        outputs = {output.name for output in model.graph.output}
        decisions, behind = [], set()
        for node in model.graph.node:
            if node.op_type not in DECIDING:
                continue
            reached = _behind(model, node)
            behind |= reached
            inputs = tuple(name for name in node.input if name and name not in constants)
            decisions.append(_Decision(node.op_type, node.output[0], inputs, frozenset(reached & outputs)))
        return cls(names=frozenset(outputs & behind), behind=frozenset(behind), decisions=tuple(decisions))

    def collect(self, model: onnx.ModelProto, image_name: str, probes: Sequence[Probe]) -> Answers:
        """What the deciding nodes read in this model or one that was made from it, under names that say so.

        Raises:
            ExportError: If a deciding node is no longer there.
        """
        if not self.names:
            return tuple(tuple({} for _ in probe.calls) for probe in probes)
        shown = onnx.ModelProto()
        shown.CopyFrom(model)
        del shown.graph.output[:]
        titles: dict[str, list[str]] = {}
        for decision in self.decisions:
            node = next((node for node in model.graph.node if decision.result in node.output), None)
            if node is None:
                raise ExportError(
                    f"the size of the output {', '.join(decision.outputs)} depends on the image, and nothing is left to compare it by"
                )
            constants = {tensor.name for tensor in model.graph.initializer}
            inputs = [name for name in node.input if name and name not in constants]
            for old, new in zip(decision.inputs, inputs, strict=True):
                titles.setdefault(new, []).append(f"{', '.join(sorted(decision.outputs))} ({old}, which {decision.operator} reads)")
        shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in titles)
        found = collect_answers(shown.SerializeToString(), image_name, probes)
        return tuple(tuple({title: values for name, values in call.items() for title in titles[name]} for call in calls) for calls in found)

    def replace(self, answers: Answers, deciding: Answers) -> Answers:
        """Answers with what decides in place of the outputs that vary."""
        return tuple(
            tuple(
                {name: value for name, value in call.items() if name not in self.names} | shown for call, shown in zip(*pair, strict=True)
            )
            for pair in zip(answers, deciding, strict=True)
        )


def _behind(model: onnx.ModelProto, start: onnx.NodeProto) -> set[str]:
    reached = set(start.output)
    for node in model.graph.node:
        if not reached.isdisjoint(node.input):
            reached |= set(node.output)
    return reached

"""What each layer of a quantized model contributes to its error."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgeresnet.progress import Track, silent
from exporters.int8.layout import Layout, with_shapes
from exporters.int8.operators import name_of
from exporters.int8.products import LAYERS
from exporters.parts import Parts
from exporters.probes import Probe
from exporters.proof import Answers, compare_answers
from exporters.sessions import open_session, run_session

# Emits what a layer's INT8 form gives, in the shape of its result; the layer stays.
LayerEmitter = Callable[[Layout, ir.Node], ir.Value]

_NOISE, _POWER = "noise", "power"


class Sensitivity:
    """A model in which every layer that can be INT8 is there in both forms, and a number for each says which counts.

    So one session tells all: with every number 0 the model is the original, and each layer says how far its INT8 form is from its result
    (the error that it makes itself); with a single 1 the outputs say what that layer alone does to them.

    Args:
        model: A checked FP32 model.
        names: Of the layers that are measured.
        emit: Their INT8 form.
        image_name: Of the model's input.
        probes: Images; one call of each kind is used.
        parts: Of which parts outputs are put together.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        names: Sequence[str],
        emit: LayerEmitter,
        image_name: str,
        probes: Sequence[Probe],
        parts: Mapping[str, Parts],
    ) -> None:
        self._names = list(names)
        self._image_name, self._parts = image_name, parts
        self._probes = [Probe(name=probe.name, calls=probe.calls[:1]) for probe in probes]
        # Names of what is added begin so.
        self._prefix = _free_prefix(model)
        self._session = open_session(_build(model, self._names, emit, self._prefix).SerializeToString())

    def own_errors(self) -> dict[str, float]:
        """SQNR in dB of the result of each layer in INT8, for what it reads in FP32."""
        noise, power = np.zeros(len(self._names)), np.zeros(len(self._names))
        for values in self._run(None):
            noise += [float(values[f"{self._prefix}/{_NOISE}/{name}"]) for name in self._names]
            power += [float(values[f"{self._prefix}/{_POWER}/{name}"]) for name in self._names]
        with np.errstate(divide="ignore", invalid="ignore"):
            found = 10 * np.log10(power / noise)
        return {name: float(value) for name, value in zip(self._names, found, strict=True)}

    def contributions(self, track: Track = silent) -> dict[str, float]:
        """SQNR in dB of the worst unit of the outputs with one layer alone in INT8, for each layer."""
        original = self._answers(None)
        indices = track(range(len(self._names)), "measuring each layer")
        return {self._names[index]: compare_answers(original, self._answers(index), self._probes, self._parts).sqnr_db for index in indices}

    def _answers(self, index: int | None) -> Answers:
        return tuple(({name: value for name, value in found.items() if not name.startswith(self._prefix)},) for found in self._run(index))

    def _run(self, index: int | None) -> list[dict[str, NDArray[Any]]]:
        switches = np.zeros(len(self._names), np.float32)
        if index is not None:
            switches[index] = 1
        return [run_session(self._session, {self._image_name: probe.calls[0], self._prefix: switches}) for probe in self._probes]


def _free_prefix(model: onnx.ModelProto) -> str:
    prefix = "edgeresnet"
    while any(output.name.startswith(prefix) for output in model.graph.output):
        prefix += "_"
    return prefix


def _build(model: onnx.ModelProto, names: Sequence[str], emit: LayerEmitter, prefix: str) -> onnx.ModelProto:
    switched = ir.from_proto(with_shapes(model))
    graph = switched.graph
    layout = Layout(graph)
    switches = ir.Value(name=layout.unique(prefix), shape=ir.Shape([len(names)]), type=ir.TensorType(ir.DataType.FLOAT))
    graph.inputs.append(switches)
    nodes = list(graph)
    for node, following in zip(nodes, [*nodes[1:], None], strict=True):
        if node.op_type in LAYERS and not node.domain and name_of(node) in names:
            layout.work_before(following)
            result = emit(layout, node)
            switch = layout.emit("Gather", [switches, layout.constant([names.index(name_of(node))])], name=name_of(node))
            _switch(graph, layout, node.outputs[0], result, switch, prefix)
    return ir.to_proto(switched)


def _switch(graph: ir.Graph, layout: Layout, original: ir.Value, quantized: ir.Value, switch: ir.Value, prefix: str) -> None:
    """Let everybody read ``original + switch * (quantized - original)``, and show the power of both parts."""
    readers, name = list(original.uses()), original.name or ""
    error = layout.emit("Sub", [quantized, original], name=f"{name}/error")
    for title, value in ((_NOISE, error), (_POWER, original)):
        power = layout.emit("ReduceSumSquare", [value], {"keepdims": 0}, name=f"{prefix}/{title}/{name}")
        power.dtype, power.shape = ir.DataType.FLOAT, ir.Shape([])
        graph.outputs.append(power)
    part = layout.emit("Mul", [error, switch], name=f"{name}/part")
    result = layout.emit("Add", [original, part], name=f"{name}/switched")
    result.shape, result.type = original.shape, original.type
    for index, value in enumerate(list(graph.outputs)):
        if value is original:
            original.name, result.name = layout.unique(f"{name}/original"), name
            graph.outputs[index] = result
    for reader in readers:
        reader.node.replace_input_with(reader.idx, result)

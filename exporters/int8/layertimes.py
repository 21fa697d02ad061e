"""How long each layer of a network takes, in FP32 and in INT8."""

import json
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import onnx
from numpy.typing import NDArray

from edgeresnet.providers.profiling import BLOCKED, read_node_times
from exporters.int8.products import LAYERS, PRODUCT_SUFFIX
from exporters.sessions import open_session, run_session

RUNS: Final = 7
# Of a node that ONNX Runtime put in the place of one of the file's.
_NUMBER: Final = re.compile(r"_token_\d+$")


def time_fp32_layers(model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Milliseconds of each layer of an FP32 model, by the name of its result, with the activation that ONNX Runtime runs with it."""
    times = profile(model, feeds)
    found = {}
    for node in model.graph.node:
        if node.op_type not in LAYERS:
            continue
        names = _names_of(node, model.graph.node)
        matching = [
            value for name, value in times.items() if name in names or name.removesuffix(BLOCKED) in names or _first_part(name) in names
        ]
        if matching:
            found[node.output[0]] = sum(matching)
    return found


def time_int8_layers(model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Milliseconds of each quantized layer: its product, and its share of what makes the rows of that in 8 bits."""
    times = profile(model, feeds)
    producers = {name: node for node in model.graph.node for name in node.output}
    products = {node.name.removesuffix(PRODUCT_SUFFIX): node for node in model.graph.node if node.name.endswith(PRODUCT_SUFFIX)}
    preparing = {name: _rounding(node.input[0], producers) for name, node in products.items()}
    readers = Counter(node for nodes in preparing.values() for node in nodes)
    own: dict[str, float] = defaultdict(float)
    for event, value in times.items():
        name, separator, part = event.rpartition("/")
        if separator and name in products and part in ("product", "scales", "float", "scaled", "biased", "spread"):
            own[name] += value
    return {name: own[name] + sum(times.get(node, 0.0) / readers[node] for node in preparing[name]) for name in products if name in own}


def _rounding(values: str, producers: Mapping[str, onnx.NodeProto]) -> set[str]:
    """Names of the nodes that make values in 8 bits of floats: that round, pool, put together and string into rows."""
    found: set[str] = set()
    pending = [values]
    while pending:
        node = producers.get(pending.pop())
        if node is None or node.name in found:
            continue
        found.add(node.name)
        if node.op_type == "QuantizeLinear":
            pending.append(node.input[1])  # the scale: what it rounds are floats
        elif node.op_type not in ("DynamicQuantizeLinear", "ReduceMax"):
            pending.extend(node.input)
    return found


def _names_of(node: onnx.NodeProto, nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Names under which ONNX Runtime may run a layer: of the node, its result, or the result of what alone reads that."""
    names = {node.name, node.output[0]} - {""}
    readers = [reader for reader in nodes if node.output[0] in reader.input]
    return names | ({readers[0].output[0]} if len(readers) == 1 else set())


def _first_part(name: str) -> str:
    return name.rpartition("/")[0]


def profile(model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Milliseconds of each node that runs, the least of several runs."""
    with tempfile.TemporaryDirectory(prefix="edgeresnet-") as folder:
        session = open_session(model.SerializeToString(), profile=Path(folder) / "profile")
        for _ in range(RUNS):
            run_session(session, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: dict[str, float] = {}
    for event, _, taken in read_node_times(events):
        name = _NUMBER.sub("", event)
        times[name] = min(taken, times.get(name, taken))
    return times

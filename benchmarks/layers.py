"""Where a call's time goes, layer by layer, from ONNX Runtime's own profiler."""

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from benchmarks.loads import LayerTime
from benchmarks.subjects import OnnxSubject
from edgeresnet.errors import BenchmarkError
from edgeresnet.providers import ALL, Settings, open_model
from edgeresnet.providers.profiling import BLOCKED, read_node_times
from edgeresnet.spec import INPUT_NAME

RUNS: Final = 30
WARMUP_RUNS: Final = 5


@dataclass(frozen=True)
class ProfileLayers:
    """Job: run one image many times, and tell how long each layer takes.

    Raises:
        BenchmarkError: If the model runs on a GPU, where the profiler sees no more than when work is queued.
    """

    subject: OnnxSubject

    def run(self, kept: dict[str, Any]) -> list[LayerTime]:
        target = self.subject.target
        if target.provider in ALL and not ALL[target.provider].runs_on_cpu:
            raise BenchmarkError("the time of layers is measured on the CPU only: on a GPU the profiler sees when work is queued")
        content = self.subject.path.read_bytes()
        with TemporaryDirectory(prefix="edgeresnet-") as folder:
            settings: Settings = replace(target.settings, profile=Path(folder) / "profile")
            session = open_model(content, target.provider, settings, self.subject.spec.precision).opened.session
            image = np.repeat(kept["images"][:1], _count(session), axis=0)
            for _ in range(WARMUP_RUNS + RUNS):
                session.run(None, {INPUT_NAME: image})
            events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
        return sum_layers(events)


def sum_layers(events: Sequence[Mapping[str, Any]]) -> list[LayerTime]:
    """Layers from the events of a profile, the slowest first.

    A layer is what the names of its nodes begin with: ``relu_1/rows`` and ``relu_1/rows/quantized`` are one.
    """
    times: dict[str, list[float]] = defaultdict(list)
    kinds: dict[str, str] = {}
    for node, kind, taken_ms in read_node_times(events):
        times[node].append(taken_ms)
        kinds[node] = kind
    layers: dict[str, dict[str, float]] = defaultdict(dict)
    for node, taken in times.items():
        layers[node.removesuffix(BLOCKED).partition("/")[0]][node] = statistics.median(taken[WARMUP_RUNS:] or taken)
    total = sum(sum(nodes.values()) for nodes in layers.values())
    found = [
        LayerTime(
            layer=layer,
            operators=list(dict.fromkeys(kinds[node] for node in nodes)),
            p50_ms=sum(nodes.values()),
            share=sum(nodes.values()) / total,
        )
        for layer, nodes in layers.items()
    ]
    return sorted(found, key=lambda layer: -layer.p50_ms)


def _count(session: Any) -> int:
    """Images that a model takes at a time, one where it takes any number."""
    batch = session.get_inputs()[0].shape[0]
    return batch if isinstance(batch, int) else 1

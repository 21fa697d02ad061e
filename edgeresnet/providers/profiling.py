"""What ONNX Runtime's profiler writes of the nodes that it ran."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

# Its blocked convolutions on x86 are called after what they give.
BLOCKED: Final = "_nchwc"
_KERNEL: Final = "_kernel_time"


def read_node_times(events: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str, float]]:
    """Name, operator and milliseconds of every run of a node, in the order of the events of a profile."""
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            yield event["name"].removesuffix(_KERNEL), event["args"]["op_name"], event["dur"] / 1000

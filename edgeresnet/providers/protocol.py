"""What a provider is to the rest of the runtime. A module of this package that has a ``PROVIDER`` adds one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a provider is to run a model.

    Attributes:
        threads: CPU threads that a run may use.
        exact: Multiply FP32 in FP32, whatever faster the provider has.
        force: Accept that nodes which the provider does not take run on the CPU.
        options: ONNX Runtime's options of this provider, passed on as they are.
        profile: Begin of the name of the file that ONNX Runtime writes the time of every node to, at the end; None for none.
    """

    threads: int = 1
    exact: bool = False
    force: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    profile: Path | None = None


@dataclass(frozen=True)
class PlacedNode:
    """A node of a model and the provider that runs it.

    Attributes:
        provider: ONNX Runtime's name of the provider.
        operator: Such as ``Conv``.
        name: Of the node in the file.
    """

    provider: str
    operator: str
    name: str


@dataclass(frozen=True)
class Opened:
    """A model that is ready to run.

    Attributes:
        session: ONNX Runtime's session.
        provider: ONNX Runtime's name of the provider that runs it, read back from the session.
        placement: Every node with its provider.
    """

    session: Any
    provider: str
    placement: tuple[PlacedNode, ...]


@dataclass(frozen=True)
class Memory:
    """Where a session's input and output can stay between runs.

    Attributes:
        device: ONNX Runtime's name, such as ``cpu`` or ``cuda``.
        device_id: Which of them.
        replays: Whether the work of a batch size is recorded once and replayed, on the same buffers.
    """

    device: str = "cpu"
    device_id: int = 0
    replays: bool = False


class Provider(Protocol):
    """An execution provider.

    Attributes:
        name: What users call it.
        runtime_name: ONNX Runtime's name.
        extra: The extra that brings it.
        rank: ``auto`` tries the highest first.
        micro_batch: Images that one run takes, unless somebody says otherwise.
        micro_batches: What is worth trying instead.
        options: Options of its own that are worth trying where calls have one image.
        runs_on_cpu: Whether the number of CPU threads matters.
        takes_streams: Whether parallel runs of single images are faster than one run at a time.
    """

    name: str
    runtime_name: str
    extra: str
    rank: int
    micro_batch: int
    micro_batches: tuple[int, ...]
    options: tuple[Mapping[str, str], ...]
    runs_on_cpu: bool
    takes_streams: bool

    def is_installed(self) -> bool:
        """Whether the wheel that brings it is there, working or not."""

    def start(self, options: Mapping[str, str]) -> None:
        """Make sure that it can run something at all.

        Raises:
            ProviderError: If it cannot: what is there, what is missing by name, what brings it, and what to do.
            MissingExtraError: If ONNX Runtime is not installed.
        """

    def open(self, content: bytes, settings: Settings, precision: str) -> Opened:
        """Open a model so that this provider runs it.

        Args:
            content: The ONNX file.
            settings: How.
            precision: What the file says of its own precision.

        Raises:
            ProviderError: If it cannot start here or, without ``settings.force``, would leave nodes to the CPU.
            ModelFormatError: If ONNX Runtime cannot load the model.
            MissingExtraError: If ONNX Runtime is not installed.
        """

    def arithmetic(self, settings: Settings) -> str | None:
        """In what FP32 products are really computed, as a phrase; None where that is FP32. It has started before."""

    def memory(self, settings: Settings) -> Memory:
        """Where input and output can stay."""

    def missing(self) -> list[str]:
        """Shared libraries that it is linked to and that the system does not find, each with what brings it."""

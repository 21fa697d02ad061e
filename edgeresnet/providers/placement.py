"""Who runs which node of a model: all of them the provider that was asked for, or an error says which not."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from edgeresnet.errors import ProviderError
from edgeresnet.providers.protocol import Opened, PlacedNode, Provider, Settings
from edgeresnet.providers.runtime import is_from_onnxruntime, reason_of, session_options


def open_whole(
    provider: Provider, create: Callable[[Any], Any], settings: Settings, reason: Callable[[Exception], str] = reason_of
) -> Opened:
    """Open a model so that the provider runs every node; else say which it leaves to the CPU, or with ``force`` accept it.

    Args:
        provider: The one that was asked for.
        create: Opens the model with ONNX Runtime's session options.
        settings: How it is to run.
        reason: What ONNX Runtime's exception says, in a line.

    Raises:
        ProviderError: If the provider cannot load the model or would leave nodes to the CPU.
    """
    refused: Exception | None = None
    if not settings.force:
        strict = session_options(settings.threads, settings.profile)
        strict.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            return _check_provider(create(strict), provider)
        except Exception as error:
            if not is_from_onnxruntime(error):
                raise
            refused = error
    try:
        opened = _check_provider(create(session_options(settings.threads, settings.profile)), provider)
    except Exception as error:
        if not is_from_onnxruntime(error):
            raise
        raise ProviderError(f"provider {provider.name!r} was asked for, but it cannot load the model: {reason(error)}") from error
    if refused is None:
        return opened
    left = [node for node in opened.placement if node.provider != provider.runtime_name]
    raise ProviderError(
        f"provider {provider.name!r} was asked for, but {len(left)} of {len(opened.placement)} nodes would run on the CPU: "
        f"{list_operators(left) or reason(refused)}; fix: choose another precision or --provider cpu, or accept it with --force"
    ) from refused


def read_placement(session: Any) -> tuple[PlacedNode, ...]:
    """Every node of a session with its provider."""
    return tuple(
        PlacedNode(part.ep_name, node.op_type, node.name)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    )


def list_operators(nodes: Sequence[PlacedNode], most: int = 4) -> str:
    """Nodes by operator, the most frequent first, such as ``20 MatMulInteger (node_conv, ...), 1 Cast (cast_0)``."""
    counts = Counter(node.operator for node in nodes)
    first = {node.operator: node.name for node in reversed(nodes)}
    parts = [f"{count} {operator} ({first[operator]}{', ...' if count > 1 else ''})" for operator, count in counts.most_common(most)]
    return ", ".join(parts) + (f" and {len(counts) - most} more operators" if len(counts) > most else "")


def _check_provider(session: Any, provider: Provider) -> Opened:
    providers = session.get_providers()
    if provider.runtime_name not in providers:
        raise ProviderError(f"provider {provider.runtime_name} was asked for, but ONNX Runtime chose {providers[0]} instead")
    return Opened(session, provider.runtime_name, read_placement(session))

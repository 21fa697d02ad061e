"""The optimizers of a run: classic SGD, or Muon for the filters of convolutions and SGD for the rest."""

from math import sqrt
from typing import Any, Final

import torch
from torch import Tensor, nn

from edgeresnet.errors import NetworkError
from edgeresnet.training.config import TrainingConfig

# A quintic that pulls singular values between 0 and 1 towards 1, steepest at 0, and how often it is applied (Jordan et al.,
# "Muon: an optimizer for hidden layers in neural networks", 2024, kellerjordan.github.io/posts/muon).
QUINTIC: Final = (3.4445, -4.7750, 2.0315)
TURNS: Final = 3


def build_optimizer(network: nn.Module, config: TrainingConfig) -> "Muon":
    """The optimizer that the settings name; every group of its parameters has its peak learning rate as ``peak_lr``.

    Weight decay acts on convolution and linear weights only: on norms and biases it costs accuracy (arXiv:1812.01187). Filters
    that Muon updates have none, since their norm is fixed.

    Raises:
        NetworkError: If Muon is asked for and the network has no filters for it.
    """
    filters = [p for p in network.parameters() if p.ndim == 4]
    matrices = [p for p in network.parameters() if p.ndim == 2]
    others = [p for p in network.parameters() if p.ndim not in (2, 4)]
    if config.muon_lr:
        fitting = _find_filters(network)
        matrices = [p for p in network.parameters() if p.ndim in (2, 4) and p not in fitting]
        filters = [p for p in filters if p in fitting]
        if not filters:
            raise NetworkError("Muon is for filters with a normalization behind them, and this network has none; fix: leave --muon-lr out")
    sgd: dict[str, Any] = {"peak_lr": config.lr, "momentum": config.momentum, "weight_decay": config.weight_decay}
    muon: dict[str, Any] = {"peak_lr": config.muon_lr, "momentum": 0.0, "weight_decay": 0.0, "muon_momentum": config.momentum}
    groups: list[dict[str, Any]] = [
        {"params": filters, **(muon if config.muon_lr else sgd)},
        {"params": matrices, **sgd},
        {"params": others, **sgd, "weight_decay": 0.0},
    ]
    return Muon(groups, lr=config.lr, momentum=config.momentum, nesterov=True)


def _find_filters(network: nn.Module) -> set[Tensor]:
    """Filters of convolutions that see all channels and have no bias, since a normalization behind them has one: what Muon is for."""
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    return {convolution.weight for convolution in convolutions if convolution.bias is None and convolution.groups == 1}


class Muon(torch.optim.SGD):
    """SGD that makes the updates of some groups orthogonal: those with a ``muon_momentum``, whose ``momentum`` is then 0.

    A filter is taken as a matrix (to, from * height * width). Its update, with Nesterov momentum, gets singular values near 1, so
    that every direction moves, not the few that gradients favour. The filter keeps the norm of such an update: behind a filter
    comes a BatchNorm, which takes any scale out again, so the learning rate is the relative change of a step.
    """

    @torch.no_grad()
    def prepare(self) -> None:
        """Put the updates of filters in place of their gradients; to be called between these and ``step``. Does not depend on the rate."""
        for group in self.param_groups:
            if "muon_momentum" in group:
                for filters in group["params"]:
                    if filters.grad is not None:
                        self._prepare(filters, filters.grad, group["muon_momentum"])

    def _prepare(self, filters: Tensor, gradient: Tensor, momentum: float) -> None:
        """Fix the norm, and put the update in place of the gradient."""
        state = self.state[filters]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(filters)
        mean = state["momentum_buffer"].mul_(momentum).add_(gradient)
        # Channels last, as they lie in memory.
        update = gradient.add_(mean, alpha=momentum).permute(0, 2, 3, 1)
        filters.mul_(sqrt(min(len(update), update[0].numel())) / filters.norm())
        update.copy_(orthogonalize(update.flatten(1)).view(update.shape))


def orthogonalize(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix near 1 (0.7 to 1.2, except those that are tiny beside the rest) and leave its directions.

    By Newton and Schulz's iteration. Of an X with few rows only X X^T is iterated on, a square of the rows: for 512 filters of
    512 channels that is a quarter of the multiplications.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalize(matrix.T).T
    matrix = matrix / (matrix.norm() + 1e-12)
    gram = matrix @ matrix.T
    identity = torch.eye(len(gram), device=gram.device)
    a, b, c = QUINTIC
    turn = total = a * identity + b * gram + c * (gram @ gram)
    for _ in range(TURNS - 1):
        gram = turn @ gram @ turn
        turn = a * identity + b * gram + c * (gram @ gram)
        total = turn @ total
    return total @ matrix

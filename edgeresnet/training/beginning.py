"""How a run begins: with a network that can do what the settings want, and with weights, fresh or somebody's."""

from collections.abc import Callable
from dataclasses import replace

import torch

from edgeresnet.errors import CheckpointError, NetworkError
from edgeresnet.preprocessing import Preprocessing
from edgeresnet.spec import LOGITS
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.networks import Blueprint
from edgeresnet.training.pixels import try_network
from edgeresnet.training.state import TrainingState
from edgeresnet.training.states import StateFile
from edgeresnet.training.weights import read_spec


def try_sizes(blueprint: Blueprint, config: TrainingConfig, preprocessing: Preprocessing) -> None:
    """Make sure that a network takes every size that it will meet, before images are read.

    Raises:
        NetworkError: If it does not, or its answers are no logits.
    """
    with torch.random.fork_rng(devices=[]):
        network = blueprint.build(2)
    for size in sorted({config.image_size, *(size for _, size in config.small_sizes)}, reverse=True):
        pixels = replace(preprocessing, input=replace(preprocessing.input, height=size, width=size, frame=None))
        _, output = try_network(network, pixels, config.network)
        if output != LOGITS:
            raise NetworkError(f"{config.network} ends in a softmax, and training needs logits; fix: leave the softmax out")


def begin(
    config: TrainingConfig,
    classes: tuple[str, ...],
    device: torch.device,
    beginning: StateFile | None,
    blueprint: Blueprint,
    report: Callable[[str], None],
) -> TrainingState:
    """The state of a new run, with the weights that it begins with.

    Raises:
        NetworkError: If the network is not for as many classes.
        CheckpointError: If the weights are of another network, or do not fit.
    """
    state = TrainingState.new(config, classes, device)
    count, _ = try_network(state.network, state.preprocessing, config.network)
    if count != len(classes):
        raise NetworkError(f"{config.network} tells {count} classes apart, and the data has {len(classes)}")
    if beginning is None:
        return state
    known = read_spec(beginning)
    if known is not None and known.architecture != blueprint.name:
        raise CheckpointError(f"{beginning.path}: holds {known.architecture!r}, and this run trains {blueprint.name!r}")
    if not state.begin_from(beginning, known.labels if known else None, blueprint):
        report(f"{beginning.path}: {'is for other classes' if known else 'does not say for which classes it is'}: the head begins fresh")
    return state


def name_teacher(config: TrainingConfig, sha256: str, *, goes_on: bool) -> TrainingConfig:
    """Settings that name the weights of the network that a run learns from as well.

    Args:
        config: The settings.
        sha256: Of the file that was given; empty without one.
        goes_on: Whether they are those of a run that has begun.

    Raises:
        CheckpointError: If they name another file already, or the run began without one.
    """
    if config.teacher_sha256 not in ("", sha256):
        raise CheckpointError(f"the run learns from the weights with SHA-256 {config.teacher_sha256} as well: give that file (--teacher)")
    if goes_on and config.teacher_sha256 != sha256:
        raise CheckpointError("the run began without a teacher; fix: leave --teacher out, or begin another run")
    return replace(config, teacher_sha256=sha256)


def name_beginning(config: TrainingConfig, beginning: StateFile | None) -> TrainingConfig:
    """Settings that name the weights a run begins with.

    Raises:
        CheckpointError: If they name others already, as those of a recipe may.
    """
    sha256 = beginning.sha256 if beginning else ""
    if config.init_sha256 not in ("", sha256):
        raise CheckpointError(f"the recipe begins from the weights with SHA-256 {config.init_sha256}: give that file (--init)")
    return replace(config, init_sha256=sha256)

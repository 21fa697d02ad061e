"""Where the time of a training step goes, and what makes it fast.

``python -m benchmarks.studies.training_step``
"""

import json
import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Final

import click
import numpy as np

from benchmarks.environment import describe_environment
from edgeresnet.cifar10 import CIFAR10_LABELS
from edgeresnet.datasets import LabelledImages
from edgeresnet.evaluation import SYNTHETIC_NAME, synthetic_images
from edgeresnet.images import Pixels
from edgeresnet.training.process import keep_freed_memory, let_idle_threads_sleep

WARM_UP: Final = 2
# The ways to take a step: as usual, and with one thing left out.
WAYS: Final[dict[str, dict[str, bool]]] = {
    "usual": {},
    "pytorch_convolutions": {"winograd": False},
    "memory_handed_back": {"keep_memory": False},
    "threads_spin": {"threads_sleep": False},
}


@dataclass(frozen=True, kw_only=True)
class StepProfile:
    """A training step of the default recipe.

    Attributes:
        images_per_s: Throughput.
        step_ms: Median time of a step by its parts: preparing the batch (data and augmentation), forward, backward, update.
        prepare_share: The first of them over their sum.
        operators: Share of the five most expensive operators in the time of all.
    """

    images_per_s: float
    step_ms: dict[str, float]
    prepare_share: float
    operators: dict[str, float]


def profile_step(
    steps: int, batch_size: int, *, amp: bool, winograd: bool = True, keep_memory: bool = True, threads_sleep: bool = True
) -> StepProfile:
    """Train for ``steps`` steps after the first ``WARM_UP`` ones, on generated images, under PyTorch's profiler.

    Args:
        steps: Steps to take the medians of.
        batch_size: Images per step.
        amp: bfloat16 autocast; float32 if not.
        winograd: Compute 3x3 convolutions by Winograd's algorithm, as `edgeresnet train` does on processors without AMX.
        keep_memory: Have the C library keep freed memory, as `edgeresnet train` does. Lasts until the process ends.
        threads_sleep: Have idle threads sleep, as `edgeresnet train` does. Takes effect if PyTorch has not been imported.
    """
    if keep_memory:
        keep_freed_memory()
    if threads_sleep:
        let_idle_threads_sleep()
    import torch
    from torch.profiler import ProfilerActivity, profile

    from edgeresnet.training.config import TrainingConfig
    from edgeresnet.training.device import choose_device
    from edgeresnet.training.loop import train
    from edgeresnet.training.state import TrainingState
    from edgeresnet.training.step import PARTS
    from edgeresnet.training.winograd import use_winograd

    device = choose_device("cpu")
    config = TrainingConfig(epochs=1, batch_size=batch_size, amp=amp)
    state = TrainingState.new(config, CIFAR10_LABELS, device)
    if winograd:
        use_winograd(state.network, torch.bfloat16 if amp else torch.float32)
    images = _label(synthetic_images(config.image_size, (WARM_UP + steps) * batch_size))
    held_out = _label(synthetic_images(config.image_size, 1))
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        train(config, state, images, held_out, after_epoch=lambda record: None)
    events = profiled.events() or []
    parts = {part: [event.time_range.elapsed_us() / 1e3 for event in events if event.name == part][WARM_UP:] for part in PARTS}
    step_ms = {part: statistics.median(times) for part, times in parts.items()}
    operators = [event for event in profiled.key_averages() if event.key not in PARTS]
    total = sum(event.self_cpu_time_total for event in operators)
    largest = sorted(operators, key=lambda event: event.self_cpu_time_total, reverse=True)[:5]
    return StepProfile(
        images_per_s=1e3 * batch_size / sum(step_ms.values()),
        step_ms=step_ms,
        prepare_share=step_ms["prepare"] / sum(step_ms.values()),
        operators={event.key: event.self_cpu_time_total / total for event in largest},
    )


def _label(images: Pixels) -> LabelledImages:
    labels = np.arange(len(images)) % len(CIFAR10_LABELS)
    return LabelledImages(images=images, labels=labels, classes=CIFAR10_LABELS, name=SYNTHETIC_NAME)


def _profile_alone(steps: int, batch_size: int, amp: bool, way: dict[str, bool]) -> StepProfile:
    """In a process of its own: what memory and threads were told cannot be taken back."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(profile_step, steps, batch_size, amp=amp, **way).result()


def _choose_middle(profiles: list[StepProfile]) -> StepProfile:
    return sorted(profiles, key=lambda profile: profile.images_per_s)[(len(profiles) - 1) // 2]


@click.command()
@click.option("--steps", type=click.IntRange(min=1), default=6, show_default=True, help="Steps to take the medians of.")
@click.option("--batch-size", type=click.IntRange(min=2), default=128, show_default=True)
@click.option("--amp/--no-amp", default=False, show_default=True, help="bfloat16 autocast, or float32.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Turns of each way.")
def command(steps: int, batch_size: int, amp: bool, rounds: int) -> None:
    """Profile steps of the default recipe on the CPU, as usual and in turns without what makes them fast; prints JSON."""
    profiles: dict[str, list[StepProfile]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            profiles[name].append(_profile_alone(steps, batch_size, amp, way))
    usual = {name: _choose_middle(taken) for name, taken in profiles.items()}
    record = {
        "environment": describe_environment(),
        "batch_size": batch_size,
        "arithmetic": "bfloat16" if amp else "float32",
        **{name: asdict(profile) for name, profile in usual.items()},
        "speedup": {name: usual["usual"].images_per_s / profile.images_per_s for name, profile in usual.items() if name != "usual"},
    }
    click.echo(json.dumps(record, indent=1))


if __name__ == "__main__":
    command()

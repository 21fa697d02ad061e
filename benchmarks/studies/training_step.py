"""Where the time of a training step goes.

``python -m benchmarks.studies.training_step``
"""

import json
import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import click
import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.environment import describe_environment
from edgeresnet.cifar10 import CIFAR10_LABELS
from edgeresnet.datasets import LabelledImages
from edgeresnet.evaluation import SYNTHETIC_NAME, synthetic_images
from edgeresnet.images import Pixels
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.device import choose_device
from edgeresnet.training.loop import train
from edgeresnet.training.process import keep_freed_memory
from edgeresnet.training.state import EpochRecord, TrainingState
from edgeresnet.training.step import PARTS

WARM_UP: Final = 2
# Of the name of a kernel, which may be a template of a thousand characters.
SHOWN: Final = 80
# The ways to take a step, and whether the C library then keeps freed memory.
WAYS: Final = {"usual": True, "memory_handed_back": False}


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


def profile_step(steps: int, batch_size: int, *, amp: bool, keep_memory: bool) -> StepProfile:
    """Train for ``steps`` steps after the first ``WARM_UP`` ones, on generated images, under PyTorch's profiler.

    Args:
        steps: Steps to take the medians of.
        batch_size: Images per step.
        amp: bfloat16 autocast; float32 if not.
        keep_memory: Have the C library keep freed memory, as `edgeresnet train` does. Lasts until the process ends.
    """
    if keep_memory:
        keep_freed_memory()
    device = choose_device("cpu")
    config = TrainingConfig(epochs=1, batch_size=batch_size, amp=amp)
    state = TrainingState.new(config, CIFAR10_LABELS, device)
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


@dataclass(frozen=True, kw_only=True)
class KernelProfile:
    """A training step on a GPU, where the host only starts kernels, most of them as one CUDA graph.

    Attributes:
        images_per_s: Throughput, without the profiler.
        kernel_ms: Sum of the times of a step's kernels.
        kernels: How many there are in a step.
        shares: Share of the ten most expensive ones in that sum, all with the same name together.
    """

    images_per_s: float
    kernel_ms: float
    kernels: float
    shares: dict[str, float]


def profile_kernels(config: TrainingConfig, steps: int) -> KernelProfile:
    """Train for three epochs of ``steps`` steps on generated images on a GPU: to warm up, to be timed, and under PyTorch's profiler."""
    state = TrainingState.new(config, CIFAR10_LABELS, choose_device("cuda"))
    images = _label(synthetic_images(config.image_size, steps * config.batch_size))
    held_out = _label(synthetic_images(config.image_size, 1))
    profiled = profile(activities=[ProfilerActivity.CUDA])

    def follow(record: EpochRecord) -> None:
        if record.epoch == config.epochs - 1:
            profiled.start()

    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        train(config, state, images, held_out, after_epoch=follow)
    profiled.stop()
    kernels = [event for event in profiled.key_averages() if event.device_type.name == "CUDA"]
    total = sum(event.self_device_time_total for event in kernels)
    shares: dict[str, float] = {}
    for event in kernels:
        name = event.key.split("<")[0].removeprefix("void ")[:SHOWN]
        shares[name] = shares.get(name, 0.0) + event.self_device_time_total / total
    return KernelProfile(
        images_per_s=state.history[-2].images_per_s,
        kernel_ms=total / 1e3 / steps,
        kernels=sum(event.count for event in kernels) / steps,
        shares=dict(sorted(shares.items(), key=lambda item: item[1], reverse=True)[:10]),
    )


def _label(images: Pixels) -> LabelledImages:
    labels = np.arange(len(images)) % len(CIFAR10_LABELS)
    return LabelledImages(images=images, labels=labels, classes=CIFAR10_LABELS, name=SYNTHETIC_NAME)


def _profile_alone(steps: int, batch_size: int, amp: bool, keep_memory: bool) -> StepProfile:
    """In a process of its own: what the C library was told cannot be taken back."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(profile_step, steps, batch_size, amp=amp, keep_memory=keep_memory).result()


def _choose_middle(profiles: list[StepProfile]) -> StepProfile:
    return sorted(profiles, key=lambda taken: taken.images_per_s)[(len(profiles) - 1) // 2]


def _record_kernels(recipe: Path, steps: int) -> dict[str, object]:
    config = replace(TrainingConfig.from_json(recipe.read_bytes()), epochs=3, small_sizes=())
    return {"environment": describe_environment(), "recipe": asdict(config), **asdict(profile_kernels(config, steps))}


@click.command()
@click.option("--steps", type=click.IntRange(min=1), default=6, show_default=True, help="Steps to take the medians of.")
@click.option("--batch-size", type=click.IntRange(min=2), default=128, show_default=True)
@click.option("--amp/--no-amp", default=False, show_default=True, help="bfloat16 autocast, or float32.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Turns of each way.")
@click.option(
    "--gpu-recipe",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Profile the kernels of a GPU in steps of this recipe instead, the JSON file of a run's settings.",
)
def command(steps: int, batch_size: int, amp: bool, rounds: int, gpu_recipe: Path | None) -> None:
    """Profile steps of the default recipe on the CPU, in turns with memory kept and handed back; prints JSON."""
    if gpu_recipe:
        click.echo(json.dumps(_record_kernels(gpu_recipe, steps), indent=1))
        return
    profiles: dict[str, list[StepProfile]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, keep_memory in WAYS.items():
            profiles[name].append(_profile_alone(steps, batch_size, amp, keep_memory))
    middle = {name: _choose_middle(taken) for name, taken in profiles.items()}
    record = {
        "environment": describe_environment(),
        "batch_size": batch_size,
        "arithmetic": "bfloat16" if amp else "float32",
        **{name: asdict(taken) for name, taken in middle.items()},
        "speedup": middle["usual"].images_per_s / middle["memory_handed_back"].images_per_s,
    }
    click.echo(json.dumps(record, indent=1))


if __name__ == "__main__":
    command()

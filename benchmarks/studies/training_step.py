"""How many images a second a recipe trains on, and where the time of its steps goes.

``python -m benchmarks.studies.training_step [--recipe FILE] [--device cuda]``
"""

import json
import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

from benchmarks.environment import describe_environment
from edgeresnet.cifar10 import CIFAR10_LABELS
from edgeresnet.datasets import LabelledImages
from edgeresnet.evaluation import SYNTHETIC_NAME, synthetic_images
from edgeresnet.images import Pixels
from edgeresnet.training.process import keep_freed_memory, let_idle_threads_sleep

# On the CPU, the ways to take a step: as usual, and with one thing left out.
WAYS: Final[dict[str, dict[str, bool]]] = {
    "usual": {},
    "memory_handed_back": {"keep_memory": False},
    "threads_spin": {"threads_sleep": False},
}
LARGEST: Final = 12


@dataclass(frozen=True, kw_only=True)
class StepProfile:
    """A recipe's training step.

    Attributes:
        images_per_s: Throughput of an epoch after the first one, without the profiler.
        host_ms: Median time in which the host does its part of a step, or on a CPU all of it: preparing the batch (data and
            augmentation), forward, backward, update.
        busy_share: Of an epoch on a GPU, the part in which one of its kernels runs, under the profiler; 1 on a CPU.
        operators: Share of the most expensive operators, on a GPU kernels, in the time of all.
    """

    images_per_s: float
    host_ms: dict[str, float]
    busy_share: float
    operators: dict[str, float]


def profile_step(
    recipe: dict[str, Any], device_name: str, steps: int, *, keep_memory: bool = True, threads_sleep: bool = True
) -> StepProfile:
    """Train three epochs of ``steps`` steps on generated images: to warm up, to take the time, and under PyTorch's profiler.

    Args:
        recipe: Settings that differ from the default ones.
        device_name: ``cpu``, ``cuda`` or ``cuda:N``.
        steps: Steps of an epoch.
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
    from edgeresnet.training.state import EpochRecord, TrainingState
    from edgeresnet.training.step import PARTS

    device = choose_device(device_name)
    config = replace(TrainingConfig.from_json(json.dumps(recipe)), epochs=3, small_sizes=())
    state = TrainingState.new(config, CIFAR10_LABELS, device)
    images = _label(synthetic_images(config.image_size, steps * config.batch_size))
    held_out = _label(synthetic_images(config.image_size, 1))
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    profiler = profile(activities=activities)

    def profile_last(record: EpochRecord) -> None:
        if record.epoch == config.epochs - 1:
            profiler.start()

    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        train(config, state, images, held_out, after_epoch=profile_last)
    profiler.stop()
    events: list[Any] = list(profiler.events() or [])  # type: ignore[no-untyped-call]  # untyped in torch
    parts = {
        part: [event.time_range.elapsed_us() / 1e3 for event in events if event.name == part and event.device_type.name == "CPU"]
        for part in PARTS
    }
    on_gpu = device.type == "cuda"
    times = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in profiler.key_averages()
        if event.key not in PARTS and (event.device_type.name == "CUDA") == on_gpu
    }
    total = sum(times.values())
    return StepProfile(
        images_per_s=state.history[1].images_per_s,
        host_ms={part: statistics.median(found) for part, found in parts.items()},
        busy_share=total / 1e6 / state.history[2].seconds if on_gpu else 1.0,
        operators={key: times[key] / total for key in sorted(times, key=times.__getitem__, reverse=True)[:LARGEST]},
    )


def _label(images: Pixels) -> LabelledImages:
    labels = np.arange(len(images)) % len(CIFAR10_LABELS)
    return LabelledImages(images=images, labels=labels, classes=CIFAR10_LABELS, name=SYNTHETIC_NAME)


def _profile_alone(recipe: dict[str, Any], device: str, steps: int, way: dict[str, bool]) -> StepProfile:
    """In a process of its own: what memory and threads were told cannot be taken back."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(profile_step, recipe, device, steps, **way).result()


def _choose_middle(profiles: list[StepProfile]) -> StepProfile:
    return sorted(profiles, key=lambda profile: profile.images_per_s)[(len(profiles) - 1) // 2]


@click.command()
@click.option("--recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="JSON file of settings. [default: train's]")
@click.option("--batch-size", "batch_sizes", type=click.IntRange(min=2), multiple=True, help="Instead of the recipe's; may be repeated.")
@click.option("--steps", type=click.IntRange(min=2), default=6, show_default=True, help="Steps of an epoch.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Turns of each way.")
def command(recipe: Path | None, batch_sizes: tuple[int, ...], steps: int, device: str, rounds: int) -> None:
    """Profile training steps, on the CPU also, in turns, without what makes them fast; prints JSON."""
    settings: dict[str, Any] = json.loads(recipe.read_bytes()) if recipe else {"small_sizes": []}
    sizes = batch_sizes or (settings.get("batch_size", 128),)
    ways = WAYS if device == "cpu" else {"usual": {}}
    profiles: dict[tuple[int, str], list[StepProfile]] = {(size, name): [] for size in sizes for name in ways}
    for _ in range(rounds):
        for (size, name), taken in profiles.items():
            taken.append(_profile_alone(settings | {"batch_size": size}, device, steps, ways[name]))
    steps_taken = [{"batch_size": size, "way": name, **asdict(_choose_middle(taken))} for (size, name), taken in profiles.items()]
    click.echo(json.dumps({"environment": describe_environment(), "device": device, "recipe": settings, "steps": steps_taken}, indent=1))


if __name__ == "__main__":
    command()

"""The training loop."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeresnet.datasets import LabelledImages
from edgeresnet.progress import Track, silent
from edgeresnet.spec import CIFAR10_MEAN, CIFAR10_STD
from edgeresnet.training.augmentation import alternate_flips, crop_and_flip, cut_out, normalize
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.state import EpochRecord, TrainingState

EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy and top-1 (0 to 1) over a set of images."""

    loss: float
    top1: float


def train(
    config: TrainingConfig,
    state: TrainingState,
    training: LabelledImages,
    validation: LabelledImages,
    *,
    after_epoch: Callable[[EpochRecord], None],
    stop: Callable[[], bool] = lambda: False,
    track: Track = silent,
) -> None:
    """Bring ``state`` to the end of the run, or to the step after which ``stop`` says so.

    Args:
        config: The settings.
        state: Where the run stands; advanced in place.
        training: Images to learn from.
        validation: Images that are held out.
        stop: Asked after every step; the state can then be saved, and the run resumed exactly.
        after_epoch: Called with the record of each finished epoch, which is in ``state.history`` already.
        track: Progress reporter of the steps of an epoch.
    """
    device = next(state.network.parameters()).device
    statistics = _normalization(device)
    images = torch.from_numpy(training.images)
    labels = torch.from_numpy(training.labels)
    steps_per_epoch = len(training) // config.batch_size or 1
    steps = config.epochs * steps_per_epoch
    while state.step < steps:
        epoch, done = divmod(state.step, steps_per_epoch)
        order, flips = _plan_epoch(len(training), epoch, config.seed)
        size = config.size_at(epoch)
        state.network.train()
        remaining = range(done, steps_per_epoch)
        for index in track(remaining, f"epoch {epoch + 1}/{config.epochs} at {size}x{size}", len(remaining)):
            started = time.perf_counter()
            chosen = order[index * config.batch_size : (index + 1) * config.batch_size]
            generator = torch.Generator().manual_seed(_mix(config.seed, 1 + state.step))
            batch = crop_and_flip(images[chosen], flips[chosen], config.crop_padding, generator)
            if config.cutout:
                batch = cut_out(batch, config.cutout, (statistics[0] * 255).round().to("cpu", torch.uint8), generator)
            inputs = normalize(batch.to(device, non_blocking=True), *statistics, size)
            targets = labels[chosen].to(device, non_blocking=True)
            _step(config, state, inputs, targets, config.lr_at(state.step, steps))
            state.seconds += time.perf_counter() - started
            if stop() and state.step % steps_per_epoch:
                return
        measured = evaluate(state.average, validation, size, track=track)
        seen = steps_per_epoch * min(config.batch_size, len(training))
        record = EpochRecord(
            epoch=epoch + 1,
            image_size=size,
            lr=state.optimizer.param_groups[0]["lr"],
            train_loss=state.loss_sum / seen,
            train_top1=state.correct / seen,
            validation_loss=measured.loss,
            validation_top1=measured.top1,
            images_per_s=seen / state.seconds,
            seconds=state.seconds,
        )
        state.history.append(record)
        state.loss_sum, state.correct, state.seconds = 0.0, 0, 0.0
        after_epoch(record)
        if stop():
            return


@torch.no_grad()
def evaluate(network: nn.Module, data: LabelledImages, size: int, *, track: Track = silent) -> Evaluation:
    """Measure a network (normalized float in, logits out; in eval mode) on images resized to ``size``."""
    network.eval()
    device = next(network.parameters()).device
    statistics = _normalization(device)
    loss, correct = 0.0, 0
    for start in track(range(0, len(data), EVALUATION_BATCH), "validating", math.ceil(len(data) / EVALUATION_BATCH)):
        batch = torch.from_numpy(data.images[start : start + EVALUATION_BATCH]).to(device)
        targets = torch.from_numpy(data.labels[start : start + EVALUATION_BATCH]).to(device)
        logits = network(normalize(batch, *statistics, size))
        loss += functional.cross_entropy(logits, targets, reduction="sum").item()
        correct += int((logits.argmax(1) == targets).sum())
    return Evaluation(loss / len(data), correct / len(data))


def _step(config: TrainingConfig, state: TrainingState, inputs: Tensor, targets: Tensor, lr: float) -> None:
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=config.amp):
        logits = state.network(inputs)
    logits = logits.float()
    loss = functional.cross_entropy(logits, targets, label_smoothing=config.label_smoothing)
    loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
    value = loss.item()
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss became {value} at step {state.step}: lower the learning rate")
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.update_average(config.ema_decay)
    state.loss_sum += value * len(targets)
    state.correct += int((logits.argmax(1) == targets).sum())


def _plan_epoch(count: int, epoch: int, seed: int) -> tuple[Tensor, Tensor]:
    """Order of the images in an epoch, and which of them are mirrored: functions of the seed and the epoch alone."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(_mix(seed, -1 - epoch)))
    first = torch.randint(0, 2, (count,), generator=torch.Generator().manual_seed(_mix(seed, 0))).bool()
    return order, alternate_flips(first, epoch)


def _mix(seed: int, stream: int) -> int:
    """A seed for one of many independent streams of a run."""
    return (seed * 0x9E3779B97F4A7C15 + stream * 0xBF58476D1CE4E5B9) % 2**63


def _normalization(device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor(CIFAR10_MEAN, device=device), torch.tensor(CIFAR10_STD, device=device)

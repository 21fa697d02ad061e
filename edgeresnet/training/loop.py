"""The training loop."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import record_function

from edgeresnet.datasets import LabelledImages
from edgeresnet.errors import TrainingError
from edgeresnet.evaluation import images_at_once
from edgeresnet.preprocessing import Preprocessing
from edgeresnet.progress import Track, silent
from edgeresnet.training.augmentation import alternate_flips, crop_and_flip, cut_out, normalization, normalize
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.pixels import take_logits
from edgeresnet.training.state import EpochRecord, TrainingState
from edgeresnet.training.workers import Workers

# The parts of a step, under which it appears in torch.profiler.
PREPARE, FORWARD, BACKWARD, UPDATE = PARTS = ("prepare", "forward", "backward", "update")
EVALUATION_BATCH = 256
ALONE = Workers()
# Beyond the numbers of the streams that order and augmentation take.
CHANCE = 1 << 40


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
    workers: Workers = ALONE,
    track: Track = silent,
) -> None:
    """Bring ``state`` to the end of the run, or to the step after which ``stop`` says so.

    Args:
        config: The settings.
        state: Where the run stands; advanced in place.
        training: Images to learn from.
        validation: Images that are held out.
        stop: Asked after every step; the state can then be saved, and the run resumed exactly.
        after_epoch: Called with the record of each finished epoch, which is in ``state.history`` already, in the first process.
        workers: The processes that share the work; their number divides a batch.
        track: Progress reporter of the steps of an epoch.

    Raises:
        TrainingError: If the loss is no number any more.
    """
    device = next(state.network.parameters()).device
    statistics = normalization(state.preprocessing, device)
    network = workers.wrap(state.network)
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
            with record_function(PREPARE):
                chosen = order[index * config.batch_size : (index + 1) * config.batch_size]
                generator = torch.Generator().manual_seed(_mix(config.seed, 1 + state.step))
                batch = crop_and_flip(images[chosen], flips[chosen], config.crop_padding, generator)
                if config.cutout:
                    batch = cut_out(batch, config.cutout, (statistics[0] * 255).round().to("cpu", torch.uint8), generator)
                # Augmented as a whole, so that an image is changed in the same way however many processes there are.
                inputs = normalize(workers.share(batch).to(device, non_blocking=True), *statistics, size)
                targets = workers.share(labels[chosen]).to(device, non_blocking=True)
            # What a network leaves to chance, such as dropout, follows from the step as well.
            torch.manual_seed(_mix(config.seed, CHANCE + state.step) + workers.rank)
            loss, correct = _step(config, state, network, inputs, targets, config.lr_fraction_at(state.step, steps))
            loss, correct, stopping = workers.total(loss, correct, float(stop()))
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss became {loss} at step {state.step} of {steps}: the run has diverged; "
                    "fix: begin it again with a lower learning rate (--lr)"
                )
            state.loss_sum += loss
            state.correct += int(correct)
            state.seconds += time.perf_counter() - started
            if stopping and state.step % steps_per_epoch:
                return
        measured = evaluate(state.average, validation, state.preprocessing, size, track=track) if workers.is_first else Evaluation(0.0, 0.0)
        validation_loss, validation_top1 = workers.total(measured.loss, measured.top1)
        seen = steps_per_epoch * min(config.batch_size, len(training))
        record = EpochRecord(
            epoch=epoch + 1,
            image_size=size,
            lr=state.optimizer.param_groups[-1]["lr"],
            train_loss=state.loss_sum / seen,
            train_top1=state.correct / seen,
            validation_loss=validation_loss,
            validation_top1=validation_top1,
            images_per_s=seen / state.seconds,
            seconds=state.seconds,
        )
        state.history.append(record)
        state.loss_sum, state.correct, state.seconds = 0.0, 0, 0.0
        if workers.is_first:
            after_epoch(record)
        if any(workers.total(float(stop()))):
            return


@torch.no_grad()
def evaluate(
    network: nn.Module, data: LabelledImages, preprocessing: Preprocessing, size: int | None = None, *, track: Track = silent
) -> Evaluation:
    """Measure a network (normalized float in, logits out; in eval mode) on images resized to ``size``, if that is given."""
    network.eval()
    device = next(network.parameters()).device
    statistics = normalization(preprocessing, device)
    loss, correct = 0.0, 0
    count = images_at_once(EVALUATION_BATCH, data.images)
    for start in track(range(0, len(data), count), "validating", math.ceil(len(data) / count)):
        batch = torch.from_numpy(data.images[start : start + count]).to(device)
        targets = torch.from_numpy(data.labels[start : start + count]).to(device)
        logits = take_logits(network(normalize(batch, *statistics, size or data.images.shape[1])))
        loss += functional.cross_entropy(logits, targets, reduction="sum").item()
        correct += int((logits.argmax(1) == targets).sum())
    return Evaluation(loss / len(data), correct / len(data))


def _step(
    config: TrainingConfig, state: TrainingState, network: nn.Module, inputs: Tensor, targets: Tensor, lr_fraction: float
) -> tuple[float, float]:
    """One step of SGD; returns the sum of the images' losses and the number that was right."""
    for group in state.optimizer.param_groups:
        group["lr"] = lr_fraction * group["peak_lr"]
    with record_function(FORWARD):
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=config.amp):
            logits = take_logits(network(inputs))
        logits = logits.float()
        loss = functional.cross_entropy(logits, targets, label_smoothing=config.label_smoothing)
    with record_function(BACKWARD):
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
    with record_function(UPDATE):
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=config.amp):
            state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.update_average(config.ema_decay)
    return loss.item() * len(targets), float((logits.argmax(1) == targets).sum())


def _plan_epoch(count: int, epoch: int, seed: int) -> tuple[Tensor, Tensor]:
    """Order of the images in an epoch, and which of them are mirrored: functions of the seed and the epoch alone."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(_mix(seed, -1 - epoch)))
    first = torch.randint(0, 2, (count,), generator=torch.Generator().manual_seed(_mix(seed, 0))).bool()
    return order, alternate_flips(first, epoch)


def _mix(seed: int, stream: int) -> int:
    """A seed for one of many independent streams of a run."""
    return (seed * 0x9E3779B97F4A7C15 + stream * 0xBF58476D1CE4E5B9) % 2**63

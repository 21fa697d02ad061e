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
from edgeresnet.training.augmentation import (
    alternate_flips,
    augment_trivially,
    crop_and_flip,
    cut_mix,
    cut_out,
    normalization,
    normalize,
)
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.pixels import PixelClassifier, take_logits
from edgeresnet.training.state import EpochRecord, TrainingState
from edgeresnet.training.step import PREPARE, Batch, Step
from edgeresnet.training.workers import Workers

EVALUATION_BATCH = 256
# Steps between two looks at the loss.
CHECK_EVERY = 50
# Of the free memory of a GPU, what the images may take.
LARGEST_SHARE = 0.5
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
    teacher: PixelClassifier | None = None,
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
        teacher: Whose answers the network learns as well, on the same device.
        after_epoch: Called with the record of each finished epoch, which is in ``state.history`` already, in the first process.
        workers: The processes that share the work; their number divides a batch.
        track: Progress reporter of the steps of an epoch.

    Raises:
        TrainingError: If the loss is no number any more.
    """
    device = next(state.network.parameters()).device
    statistics = normalization(state.preprocessing, device)
    fill = (statistics[0] * 255).round().to(torch.uint8)
    as_graph = device.type == "cuda" and workers.count == 1
    step = Step(config, state, workers.wrap(state.network), statistics, as_graph=as_graph, teacher=teacher)
    images, labels = move_data(training, device)
    steps_per_epoch = len(training) // config.batch_size or 1
    steps = config.epochs * steps_per_epoch
    while state.step < steps:
        epoch, done = divmod(state.step, steps_per_epoch)
        order, flips = (plan.to(images.device) for plan in _plan_epoch(len(training), epoch, config.seed))
        size = config.size_at(epoch)
        state.network.train()
        tally = _Tally(state, steps, workers, device)
        remaining = range(done, steps_per_epoch)
        for index in track(remaining, f"epoch {epoch + 1}/{config.epochs} at {size}x{size}", len(remaining)):
            with record_function(PREPARE):
                chosen = order[index * config.batch_size : (index + 1) * config.batch_size]
                generator = torch.Generator().manual_seed(_mix(config.seed, 1 + state.step))
                batch, batch_flips = (part.to(device, non_blocking=True) for part in (images[chosen], flips[chosen]))
                batch, share = _augment(batch, batch_flips, config, fill, generator)
                # Augmented as a whole, so that an image is changed in the same way however many processes there are.
                targets = labels[chosen].to(device, non_blocking=True)
                mixed = Batch(workers.share(batch), workers.share(targets), workers.share(targets.roll(1)), share)
            # What a network leaves to chance, such as dropout, follows from the step as well.
            torch.manual_seed(_mix(config.seed, CHANCE + state.step) + workers.rank)
            tally.add(*step.take(mixed, size, config.lr_fraction_at(state.step, steps)))
            (stopping,) = workers.total(float(stop()))
            if stopping and state.step % steps_per_epoch:
                tally.close()
                return
        tally.close()
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


class _Tally:
    """Sums over the steps of an epoch, on the device: nobody waits for a step's result.

    Every ``CHECK_EVERY`` steps, and at the end, the host waits for the device: to see whether the loss is still a number, and so
    that it is never far ahead.
    """

    def __init__(self, state: TrainingState, steps: int, workers: Workers, device: torch.device) -> None:
        self._state, self._steps, self._workers = state, steps, workers
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)
        self._started = time.perf_counter()

    def add(self, losses: Tensor, correct: Tensor) -> None:
        """Take up a step's sum of the images' losses, and the number that was right."""
        self._sums += torch.stack([losses.double(), correct.double()])
        if self._state.step % CHECK_EVERY == 0:
            self._check()

    def close(self) -> None:
        """Add everything to the state."""
        loss, correct = self._check()
        self._state.loss_sum += loss
        self._state.correct += int(correct)
        self._state.seconds += time.perf_counter() - self._started

    def _check(self) -> list[float]:
        sums = self._workers.total(*self._sums.tolist())
        if not math.isfinite(sums[0]):
            raise TrainingError(
                f"the loss became {sums[0]} at step {self._state.step} of {self._steps}: the run has diverged; "
                "fix: begin it again with a lower learning rate (--lr)"
            )
        return sums


def move_data(data: LabelledImages, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images and labels on the device, so that no step waits for a copy; on the host where they would take most of its memory."""
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    if device.type == "cuda" and images.nbytes > LARGEST_SHARE * torch.cuda.mem_get_info(device)[0]:
        return images, labels
    return images.to(device), labels.to(device)


def _augment(batch: Tensor, flips: Tensor, config: TrainingConfig, fill: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
    """The images of a step as the settings want them changed, and the share of each that is its own and not its neighbour's."""
    batch = crop_and_flip(batch, flips, config.crop_padding, generator)
    if config.trivial_augment:
        batch = augment_trivially(batch, fill, generator)
    if config.cutout:
        batch = cut_out(batch, config.cutout, fill, generator)
    if config.cutmix and float(torch.rand((), generator=generator)) < config.cutmix:
        return cut_mix(batch, generator)
    return batch, 1.0


def _plan_epoch(count: int, epoch: int, seed: int) -> tuple[Tensor, Tensor]:
    """Order of the images in an epoch, and which of them are mirrored: functions of the seed and the epoch alone."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(_mix(seed, -1 - epoch)))
    first = torch.randint(0, 2, (count,), generator=torch.Generator().manual_seed(_mix(seed, 0))).bool()
    return order, alternate_flips(first, epoch)


def _mix(seed: int, stream: int) -> int:
    """A seed for one of many independent streams of a run."""
    return (seed * 0x9E3779B97F4A7C15 + stream * 0xBF58476D1CE4E5B9) % 2**63

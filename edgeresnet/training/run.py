"""A training run in a folder: data in, weights, log, plot and a state to resume from out."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from csv import DictWriter
from dataclasses import dataclass, fields
from io import StringIO
from itertools import pairwise
from pathlib import Path
from types import FrameType

import torch

from edgeresnet.datasets import LabelledImages, check_memory, check_test_classes, count_by_class, describe_content, hold_out, read_split
from edgeresnet.errors import CheckpointError, DataError
from edgeresnet.files import replacing, write_text
from edgeresnet.progress import Track, silent
from edgeresnet.spec import Accuracy
from edgeresnet.training.beginning import begin, name_beginning, name_teacher, try_sizes
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.delivery import deliver
from edgeresnet.training.distillation import build_teacher
from edgeresnet.training.loop import ALONE, train
from edgeresnet.training.networks import find_network
from edgeresnet.training.norms import renew_norms
from edgeresnet.training.outliers import silence_outliers
from edgeresnet.training.state import EpochRecord, TrainingState
from edgeresnet.training.states import read_state
from edgeresnet.training.weights import describe_network
from edgeresnet.training.workers import Workers

STATE_FILE = "state.pt"
WEIGHTS_FILE = "weights.safetensors"
CONFIG_FILE = "config.json"
LOG_FILE = "log.csv"
PLOT_FILE = "curves.png"
# After an epoch that ends sooner than this after the last state that was written, none is.
SAVE_EVERY_S = 20.0
# The largest class over the smallest, from which a run says so.
IMBALANCE = 2.0


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        finished: False if it was interrupted; the state in the folder then resumes it.
        epochs_done: Whole epochs so far.
        weights: The delivered weights, or None if it was interrupted.
        accuracy: On the test split; None if it was interrupted or the data has no test split. Only the first of several processes
            has weights and accuracy.
    """

    finished: bool
    epochs_done: int
    weights: Path | None = None
    accuracy: Accuracy | None = None


def run_training(
    config: TrainingConfig | None,
    data: Path,
    output: Path,
    *,
    device: torch.device,
    init: Path | None = None,
    network: str | None = None,
    teacher: Path | None = None,
    teacher_network: str | None = None,
    workers: Workers = ALONE,
    report: Callable[[str], None] = lambda line: None,
    track: Track = silent,
) -> TrainingResult:
    """Start a run, or resume the one in ``output``.

    Order of events: the training split is read and a part of it held out; after every epoch the state, the log and the plot are
    written; at the end the averaged weights get normalization statistics of their own, lose channels that are useless outliers and
    are written, and only then the test split is read, once, and the accuracy on it stamped into the weights. Ctrl-C ends the run
    after the step at hand and saves the state; a second one ends it at once.

    Args:
        config: Settings of a new run, or None to resume with the settings that the state holds.
        data: Any layout that ``edgeresnet.datasets`` reads.
        output: Folder of the run.
        device: Where to train.
        init: Weights that a new run begins with, anybody's; their head is kept if it is for the same classes. Fresh weights if None.
        network: What the user names, to resume a run of a network of his own: no file can have that imported.
        teacher: Weights of a network whose answers to the same images are learned as well; a run that goes on needs them again.
        teacher_network: What the user names, where the file does not say what network it is, or it is one of his own.
        workers: The processes that share the work: all of them call this; the first one writes the files and reports.
        report: Receives a line of text for each noteworthy event.
        track: Progress reporter.

    Raises:
        DataError: If the data cannot be used, or its test split has other classes than the training split.
        TrainingError: If the loss is no number any more.
        CheckpointError: If there is a run in the folder already (new runs), or none (resuming), or it is of other images, or
            ``init`` is not a weights file, not of this network, or not the one that the settings name; or the teacher is not the one
            that they name, or tells other classes apart or takes images of another size.
        NetworkError: If there is no such network, or it does not take images of the sizes that the settings name.
        MissingExtraError: If it is timm's and timm is not installed.
    """
    state_path = output / STATE_FILE
    state: TrainingState | None = None
    beginning = read_state(init) if init else None
    if config is None:
        state, config = TrainingState.load(state_path, device, network)
    elif state_path.exists():
        raise CheckpointError(f"{output}: holds a run already; resume it (--resume) or choose another folder")
    else:
        config = name_beginning(config, beginning)
    taught = read_state(teacher) if teacher else None
    config = name_teacher(config, taught.sha256 if taught else "", goes_on=state is not None)
    blueprint = find_network(config.network)
    preprocessing = blueprint.preprocess((config.image_size, config.image_size), "")
    try_sizes(blueprint, config, preprocessing)
    images = read_split(data, "train", size=preprocessing.input, track=track)
    _check_training_data(images, data)
    content = describe_content(images)
    # Both parts are copies.
    check_memory(len(images), preprocessing.input, str(data))
    training, validation = hold_out(images, config.validation_fraction)
    if state is None:
        state = begin(config, images.classes, device, beginning, blueprint, report if workers.is_first else _say_nothing)
        state.data = content
    _check_same_data(state, images.classes, content, state_path)
    check_test_classes(data, images.classes)
    answering = build_teacher(taught, teacher_network, config, images.classes, device) if taught else None
    _check_division(config, training, workers)
    if not workers.is_first:
        report, track = _say_nothing, silent
    report(f"{len(training):,} images to train on, {len(validation):,} held out, {len(images.classes)} classes")
    if imbalance := _describe_imbalance(images):
        report(imbalance)
    if workers.is_first:
        write_text(output / CONFIG_FILE, config.to_json() + "\n")

    diary = _Diary(output, config, report)
    # On a GPU: the fastest algorithm of each convolution is found by trying them.
    fastest = torch.backends.cudnn.flags(enabled=True, benchmark=True)
    with _deferred_interrupt(insists=workers.count > 1) as stop, fastest:
        train(
            *(config, state, training, validation),
            after_epoch=lambda record: diary.write(state, record),
            stop=stop.is_set,
            teacher=answering,
            workers=workers,
            track=track,
        )
        epochs_done = len(state.history)
        if epochs_done < config.epochs:
            if workers.is_first:
                state.save(state_path, config)
            return TrainingResult(finished=False, epochs_done=epochs_done)
    if not workers.is_first:
        return TrainingResult(finished=True, epochs_done=epochs_done)
    renew_norms(state.average, training.images, validation, preprocessing, report=report, track=track)
    silence_outliers(state.average, training.images, validation, preprocessing, report=report, track=track)
    weights = output / WEIGHTS_FILE
    spec = describe_network(blueprint, state.classes, preprocessing)
    accuracy = deliver(state.average.state_dict(), spec, data, weights, device=device, report=report, track=track)
    return TrainingResult(finished=True, epochs_done=epochs_done, weights=weights, accuracy=accuracy)


class _Diary:
    """What a run writes down after an epoch."""

    def __init__(self, folder: Path, config: TrainingConfig, report: Callable[[str], None]) -> None:
        self._folder, self._config, self._report = folder, config, report
        self._saved = -math.inf

    def write(self, state: TrainingState, record: EpochRecord) -> None:
        """The log, and the state and the plot if the last ones are some time old or these are the last.

        An epoch on a GPU may take no longer than writing the two.
        """
        is_due = record.epoch == self._config.epochs or time.monotonic() - self._saved > SAVE_EVERY_S
        # First what cannot be had again.
        if is_due:
            state.save(self._folder / STATE_FILE, self._config)
            self._saved = time.monotonic()
        write_text(self._folder / LOG_FILE, format_log(state.history))
        if is_due:
            plot_history(state.history, self._folder / PLOT_FILE)
        self._report(_describe(record, self._config.epochs))


def format_log(history: list[EpochRecord]) -> str:
    """The run as CSV, one line an epoch."""
    text = StringIO()
    writer = DictWriter(text, [field.name for field in fields(EpochRecord)], lineterminator="\n")
    writer.writeheader()
    for record in history:
        writer.writerow({key: round(value, 6) for key, value in vars(record).items()})
    return text.getvalue()


def plot_history(history: list[EpochRecord], path: Path) -> None:
    """Draw losses, accuracies and the learning rate over the epochs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    losses, scores = figure.subplots(1, 2)
    epochs = [record.epoch for record in history]
    losses.plot(epochs, [r.train_loss for r in history], "o-", label="training (smoothed labels, augmented)")
    losses.plot(epochs, [r.validation_loss for r in history], "o-", label="validation (averaged weights)")
    losses.set_ylabel("loss")
    scores.plot(epochs, [100 * r.train_top1 for r in history], "o-", label="training (augmented)")
    scores.plot(epochs, [100 * r.validation_top1 for r in history], "o-", label="validation (averaged weights)")
    scores.set_ylabel("top-1, %")
    for before, after in pairwise(history):
        if before.image_size != after.image_size:
            for axes in (losses, scores):
                axes.axvline(before.epoch + 0.5, color="grey", linestyle=":", linewidth=1)
            scores.annotate(f" {after.image_size} px", (before.epoch + 0.5, 0.02), xycoords=("data", "axes fraction"), color="grey")
    for axes in (losses, scores):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, metadata={"Software": None})


def _check_training_data(images: LabelledImages, data: Path) -> None:
    if len(images.classes) < 2:
        raise DataError(f"{data}: has one class ({images.classes[0]}); there is nothing to tell apart")
    counts = count_by_class(images)
    fewest = min(counts, key=lambda name: counts[name])
    if counts[fewest] < 2:
        raise DataError(f"{data}: class {fewest!r} has {counts[fewest]} image(s) to train on; it needs at least 2")


def _check_same_data(state: TrainingState, classes: tuple[str, ...], content: str, path: Path) -> None:
    if state.classes != classes:
        raise CheckpointError(f"{path}: was trained on other classes ({', '.join(state.classes)})")
    if state.data != content:
        raise CheckpointError(
            f"{path}: the training images have changed since the run began ({state.data}; now {content}), so it cannot go on as it would "
            "have; fix: bring them back, or begin another run"
        )


def _check_division(config: TrainingConfig, training: LabelledImages, workers: Workers) -> None:
    batch = min(config.batch_size, len(training))
    if batch % workers.count:
        raise DataError(f"a batch of {batch} images cannot be shared evenly by {workers.count} processes; fix: another --batch-size")


def _say_nothing(line: str) -> None:
    pass


def _describe_imbalance(images: LabelledImages) -> str | None:
    """A line about class sizes that differ so much that top-1 says little of the small classes."""
    counts = count_by_class(images)
    fewest, most = min(counts, key=lambda name: counts[name]), max(counts, key=lambda name: counts[name])
    ratio = counts[most] / counts[fewest]
    if ratio < IMBALANCE:
        return None
    return (
        f"uneven classes: {counts[most]:,} images of {most!r}, {counts[fewest]:,} of {fewest!r}, {ratio:.1f} to 1; top-1 counts images, so "
        "look at the accuracy per class (edgeresnet eval) as well"
    )


def _describe(record: EpochRecord, epochs: int) -> str:
    return (
        f"epoch {record.epoch}/{epochs}  {record.image_size} px  loss {record.train_loss:.3f}  train {record.train_top1:.2%}  "
        f"validation {record.validation_top1:.2%}  {record.images_per_s:,.0f} images/s"
    )


@contextmanager
def _deferred_interrupt(*, insists: bool) -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that it cannot strike in the middle of a step; the second acts as usual.

    Args:
        insists: Treat the second like the first: torchrun passes on the one that the terminal has sent to every process already.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request_stop(number: int, frame: FrameType | None) -> None:
        stop.set()
        if not insists:
            signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, request_stop)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)

"""``edgeresnet bench``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeresnet.cli.options import (
    EXISTING_FILE,
    checkpoint_option,
    data_option,
    format_option,
    limit_option,
    network_option,
    target_options,
)
from edgeresnet.cli.terminal import note, note_run, progress_bars, show
from edgeresnet.datasets import LabelledImages
from edgeresnet.errors import DataError
from edgeresnet.progress import Track
from edgeresnet.spec import ImageInput
from edgeresnet.target import Target

if TYPE_CHECKING:
    from benchmarks.subjects import OnnxSubject
    from edgeresnet.profile import Profile

EPILOG = """\b
Examples:
  edgeresnet bench
  edgeresnet bench resnet18-fp32.onnx resnet18-int8.onnx --data cifar10 --batch-size 1 --batch-size 32
  edgeresnet bench resnet18-fp32.onnx --provider cuda --output record.json
  edgeresnet bench mobilenet_v2-fp32.onnx mobilenet_v2-int8.onnx --original mobilenet_v2.pth
"""


@click.command(epilog=EPILOG)
@click.argument("models", nargs=-1, type=EXISTING_FILE, metavar="[MODEL]...")
@target_options
@click.option(
    "--batch-size",
    "batch_sizes",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1,),
    show_default=True,
    help="Images per call; repeatable.",
)
@click.option(
    "--min-time",
    type=click.FloatRange(min=0),
    default=4.0,
    show_default=True,
    help="Seconds to time each model at each batch size, at least.",
)
@data_option
@click.option(
    "--download",
    is_flag=True,
    help="Without --data, fetch CIFAR-10 through torchvision into ~/.cache/edgeresnet; go on without it if that fails.",
)
@limit_option
@checkpoint_option
@network_option
@click.option("--no-original", is_flag=True, help="Leave the original out; PyTorch is not needed then.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the JSON record to this file as well.")
@format_option("table", "json")
def command(
    models: tuple[Path, ...],
    target: Target,
    profile: "Profile | None",
    batch_sizes: tuple[int, ...],
    min_time: float,
    data: Path | None,
    download: bool,
    limit: int | None,
    checkpoint: Path | None,
    network: str | None,
    no_original: bool,
    output: Path | None,
    style: str,
) -> None:
    """Measure the latency and accuracy of models (the bundled INT8 one by default) beside their original.

    That is the network in PyTorch; where its weights are not at hand, the FP32 model among MODELS. One model lives at a time, in
    interleaved rounds, each warmed up. Without --data the agreement with the original is measured on synthetic images.
    """
    from benchmarks.bench import BenchSettings, run_benchmark
    from benchmarks.originals import Choice, choose_original
    from benchmarks.remarks import find_warnings
    from benchmarks.report import build_table
    from benchmarks.subjects import OnnxSubject
    from edgeresnet.classifier import bundled_model
    from edgeresnet.files import write_text

    if profile is not None and models:
        raise click.UsageError("MODEL cannot change what --profile sets")
    subjects = [OnnxSubject.of(path, target) for path in models or (profile.model if profile else bundled_model(),)]
    on_devices = [_try(subject) for subject in subjects]
    settings = BenchSettings(
        target=target,
        batch_sizes=tuple(dict.fromkeys(batch_sizes)),
        min_time_s=min_time,
        device_only=any(on_devices),
    )
    with progress_bars() as track:
        choice = Choice(original=None) if no_original else choose_original(subjects, checkpoint, network, target)
        if choice.remark:
            note(f"note: {choice.remark}")
        test = _read_test(data, download, subjects[0].spec.input, limit, track)
        record = run_benchmark(subjects, choice.original, settings, test=test, track=track)
    if output is not None:
        write_text(output, record.to_json() + "\n")
    if style == "json":
        print(record.to_json())
    else:
        show(build_table(record))
    for warning in find_warnings(record):
        note(f"warning: {warning}")


def _try(subject: "OnnxSubject") -> bool:
    """Open and close a model, since what cannot run should say so before minutes of measuring.

    Returns:
        Whether it runs on a device with memory of its own.
    """
    session = subject.load()
    note_run(session)
    session.close()
    return session.memory.device != "cpu"


def _read_test(data: Path | None, download: bool, size: ImageInput, limit: int | None, track: Track) -> LabelledImages | None:
    from edgeresnet.datasets import read_split

    if data is None and download:
        from edgeresnet.training.download import download_cifar10

        data = Path.home() / ".cache" / "edgeresnet"
        try:
            download_cifar10(data)
        except DataError as error:
            note(f"note: {error}; measuring latency and agreement only")
            return None
    return read_split(data, "test", size=size, limit=limit, track=track) if data is not None else None

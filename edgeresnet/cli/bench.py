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
from edgeresnet.errors import DataError, EdgeResNetError
from edgeresnet.progress import Track
from edgeresnet.spec import ImageInput
from edgeresnet.target import Target

if TYPE_CHECKING:
    from benchmarks.record import Record
    from benchmarks.subjects import OnnxSubject
    from edgeresnet.profile import Profile

EPILOG = """\b
Examples:
  edgeresnet bench
  edgeresnet bench resnet18-fp32.onnx resnet18-int8.onnx --data cifar10 --batch-size 1 --batch-size 32
  edgeresnet bench resnet18-fp32.onnx --provider cuda --output record.json --html report.html
  edgeresnet bench resnet18-fp32.onnx resnet18-int8.onnx --scenario server --bound 20 --operators
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
@click.option("--thread-sweep", is_flag=True, help="Measure on 1, 2, 4, ... CPU threads, up to --threads.")
@click.option(
    "--min-time",
    type=click.FloatRange(min=0),
    default=4.0,
    show_default=True,
    help="Seconds to time each model at each batch size, at least.",
)
@click.option(
    "--scenario",
    "scenarios",
    type=click.Choice(["offline", "server", "sustained"]),
    multiple=True,
    help="Besides: throughput of large batches (offline); the highest rate of random arrivals with --bound on their 99th percentile "
    "(server); --minutes without a pause (sustained). Repeatable.",
)
@click.option("--bound", type=click.FloatRange(min=0, min_open=True), help="Milliseconds from arrival to answer, for --scenario server.")
@click.option("--minutes", type=click.IntRange(min=1), default=30, show_default=True, help="Of each model, for --scenario sustained.")
@click.option("--operators", is_flag=True, help="Measure the time of each layer, too.")
@data_option
@click.option(
    "--download",
    is_flag=True,
    help="Without --data, fetch CIFAR-10 through torchvision into ~/.cache/edgeresnet; go on without it if that fails.",
)
@limit_option
@click.option("--corrupt", type=click.IntRange(min=1), help="Measure accuracy on this many corrupted test images, too; needs --data.")
@checkpoint_option
@network_option
@click.option("--no-original", is_flag=True, help="Leave the original out; PyTorch is not needed then.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the JSON record to this file as well.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write the report to this file, one page for the browser.")
@format_option("table", "json", "csv", "markdown")
def command(
    models: tuple[Path, ...],
    target: Target,
    profile: "Profile | None",
    batch_sizes: tuple[int, ...],
    thread_sweep: bool,
    min_time: float,
    scenarios: tuple[str, ...],
    bound: float | None,
    minutes: int,
    operators: bool,
    data: Path | None,
    download: bool,
    limit: int | None,
    corrupt: int | None,
    checkpoint: Path | None,
    network: str | None,
    no_original: bool,
    output: Path | None,
    html: Path | None,
    style: str,
) -> None:
    """Measure the latency and accuracy of models (the bundled INT8 one by default) beside their original.

    That is the network in PyTorch; where its weights are not at hand, the FP32 model among MODELS. Each model runs in a process of its
    own, one at a time, in ten interleaved rounds, each warmed up; rounds in which something else has the cores are measured again. Without
    --data the agreement with the original is measured on synthetic images.

    Exit status 1 if a model could not be measured; the others are all the same.
    """
    if profile is not None and models:
        raise click.UsageError("MODEL cannot change what --profile sets")
    if ("server" in scenarios) != (bound is not None):
        raise click.UsageError("--scenario server and --bound belong together")
    if corrupt is not None and data is None:
        raise click.UsageError("--corrupt needs --data")
    from benchmarks.bench import BenchSettings, run_benchmark
    from benchmarks.originals import Choice, choose_original
    from benchmarks.scenarios import Plan
    from benchmarks.subjects import OnnxSubject
    from edgeresnet.classifier import bundled_model
    from edgeresnet.files import check_writable

    for path in filter(None, (output, html)):
        check_writable(path)
    if html is not None:
        from benchmarks.report.html import require_packages

        require_packages()
    subjects = [OnnxSubject.of(path, target) for path in models or (profile.model if profile else bundled_model(),)]
    refused, on_gpu = _try_all(subjects)
    settings = BenchSettings(
        target=target,
        batch_sizes=tuple(dict.fromkeys(batch_sizes)),
        threads=_list_threads(target.cores) if thread_sweep else None,
        min_time_s=min_time,
        device_only=on_gpu,
        corrupted=corrupt or 0,
        plan=Plan(scenarios=tuple(dict.fromkeys(scenarios)), bound_ms=bound, minutes=minutes, layers=operators),
    )
    with progress_bars() as track:
        choice = Choice(original=None) if no_original else choose_original(subjects, checkpoint, network, target, on_gpu=on_gpu)
        if choice.remark:
            note(f"note: {choice.remark}")
        test = _read_test(data, download, subjects[0].spec.input, limit, track)
        record = run_benchmark(subjects, choice.original, settings, test=test, refused=refused, track=track)
    _present(record, test, output, html, style)
    if any(result.error for result in record.results):
        raise click.exceptions.Exit(1)


def _present(record: "Record", test: LabelledImages | None, output: Path | None, html: Path | None, style: str) -> None:
    from benchmarks.remarks import find_warnings
    from benchmarks.report import build_load_tables, build_table, to_csv, to_markdown
    from edgeresnet.files import write_text

    if style == "json":
        print(record.to_json())
    elif style == "csv":
        print(to_csv(record), end="")
    elif style == "markdown":
        print(to_markdown(record), end="")
    else:
        for table in (build_table(record), *build_load_tables(record)):
            show(table)
    for warning in find_warnings(record):
        note(f"warning: {warning}")
    if output is not None:
        write_text(output, record.to_json() + "\n")
    if html is not None:
        from benchmarks.report.html import write_html

        write_html([record], html, test)
        note(f"{html}: open it in a browser")
    for result in record.results:
        if result.error is not None:
            note(f"error: {result.name}: {result.error}")
    if record.interrupted:
        note("note: interrupted; what is shown was measured before")


def _try_all(subjects: "list[OnnxSubject]") -> tuple[dict[Path, str], bool]:
    """Open and close every model, since what cannot run should say so before minutes of measuring.

    Returns:
        The models that do not run, with the reason, and whether those that do run on a GPU.

    Raises:
        EdgeResNetError: If none of them runs.
    """
    refused: dict[Path, str] = {}
    on_gpu = False
    for subject in subjects:
        try:
            session = subject.load()
        except EdgeResNetError as error:
            if len(refused) == len(subjects) - 1:
                raise
            refused[subject.path] = str(error)
            continue
        note_run(session)
        on_gpu = on_gpu or session.memory.device != "cpu"
        session.close()
    return refused, on_gpu


def _list_threads(cores: int) -> tuple[int, ...]:
    """Powers of two, and all cores."""
    return tuple(sorted({cores, *(1 << i for i in range(cores.bit_length()) if 1 << i < cores)}))


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

"""``edgeresnet tune``."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeresnet.cli.options import EXISTING_FILE, data_option, format_option
from edgeresnet.cli.terminal import note, progress_bars, show
from edgeresnet.target import PROVIDERS, Target

if TYPE_CHECKING:
    from benchmarks.tuning.judging import Judged
    from benchmarks.tuning.racing import Raced
    from benchmarks.tuning.result import Tuning

EPILOG = """\b
Examples:
  edgeresnet tune resnet18-fp32.onnx resnet18-int8.onnx --output deploy.json
  edgeresnet tune resnet18-*.onnx --for throughput --data cifar10 --max-drop 0.3
  edgeresnet predict cat.jpg --profile deploy.json
"""


@click.command(epilog=EPILOG)
@click.argument("models", nargs=-1, type=EXISTING_FILE, metavar="[MODEL]...")
@click.option(
    "--for",
    "objective",
    type=click.Choice(["latency", "throughput"]),
    default="latency",
    show_default=True,
    help="One image as soon as possible, or many images as fast as possible.",
)
@click.option("--provider", "providers", type=click.Choice(list(PROVIDERS)), multiple=True, help="Try this one; repeatable. [default: all]")
@click.option("--threads", type=click.IntRange(min=1), help="Most CPU threads. [default: every core that the process may use]")
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 100),
    default=99.0,
    show_default=True,
    help="Least percentage of images on which a model has the class that the FP32 model has.",
)
@click.option("--max-drop", type=click.FloatRange(min=0), help="Largest loss of top-1 in percentage points; needs --data.")
@data_option
@click.option("--limit", type=click.IntRange(min=1), default=500, show_default=True, help="Training images to compare the answers on.")
@click.option("--budget", type=click.FloatRange(min=0), default=90, show_default=True, help="Seconds of timing, about.")
@click.option("--exhaustive", is_flag=True, help="Time every candidate to the end, whatever it takes.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the winner to this file, for --profile.")
@format_option("table", "json")
def command(
    models: tuple[Path, ...],
    objective: str,
    providers: tuple[str, ...],
    threads: int | None,
    min_agreement: float,
    max_drop: float | None,
    data: Path | None,
    limit: int,
    budget: float,
    exhaustive: bool,
    output: Path | None,
    style: str,
) -> None:
    """Find the fastest way to run a network on this machine: model, provider, threads, streams and micro-batch.

    Give the same network in several precisions. Ways whose answers differ too much from the FP32 model's are left out.
    """
    if max_drop is not None and data is None:
        raise click.UsageError("--max-drop needs --data")
    from benchmarks.subjects import OnnxSubject
    from benchmarks.tuning.result import tune
    from benchmarks.tuning.space import Goal
    from edgeresnet.classifier import bundled_model
    from edgeresnet.datasets import read_split

    goal = Goal(objective=objective, min_agreement=min_agreement / 100, max_drop=max_drop, budget_s=budget, exhaustive=exhaustive)
    paths = models or (bundled_model(),)
    with progress_bars() as track:
        images = None
        if data is not None:
            size = OnnxSubject.of(paths[0], Target()).spec.input
            images = read_split(data, "train", size=size, limit=limit, track=track)
        tuning = tune(paths, goal, providers=providers or tuple(PROVIDERS), threads=threads, data=images, track=track)
    if style == "json":
        print(json.dumps(_describe(tuning), indent=1))
    else:
        _show_table(tuning)
    if output is not None:
        tuning.profile.write(output)
        note(f"{output}: use it with `edgeresnet predict --profile {output}` or Classifier.from_profile({str(output)!r})")


def _describe(tuning: "Tuning") -> dict[str, Any]:
    return {
        "schema": "edgeresnet.tuning/1",
        "goal": asdict(tuning.goal),
        "reference": tuning.reference,
        "data": tuning.data,
        "count": tuning.count,
        "seconds": tuning.seconds,
        "unavailable": tuning.unavailable,
        "candidates": [
            *(_describe_candidate(raced.judged, raced) for raced in tuning.ranked),
            *(_describe_candidate(judged) for judged in tuning.refused),
        ],
    }


def _describe_candidate(judged: "Judged", raced: "Raced | None" = None) -> dict[str, Any]:
    return {
        "model": judged.subject.name,
        "precision": judged.subject.spec.precision,
        "target": asdict(judged.subject.target),
        "agreement": judged.agreement,
        "top1": judged.top1,
        "refused": judged.refused,
        "p50_ms": raced.p50_ms if raced else None,
        "images_per_s": raced.images_per_s if raced else None,
        "samples": len(raced.calls_ms) if raced else 0,
    }


def _show_table(tuning: "Tuning") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    caption = (
        f"{len(tuning.ranked)} ways timed in {tuning.seconds:.0f} s; p50: median call with {tuning.ranked[0].images_per_call} image(s)\n"
        f"agreement with {tuning.reference} on {tuning.count:,} images: {tuning.data}"
    )
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False, caption=caption, caption_justify="left")
    table.add_column("model", overflow="fold")
    table.add_column("provider")
    for heading in ("threads", "streams", "batch", "p50 ms", "img/s", "agrees", "top-1"):
        table.add_column(heading, justify="right")
    for raced in tuning.ranked:
        table.add_row(*_cells(raced.judged), f"{raced.p50_ms:.2f}", f"{raced.images_per_s:,.0f}", *_answers(raced.judged))
    for judged in tuning.refused:
        table.add_row(*_cells(judged), "-", "-", *_answers(judged))
    show(table)
    for provider, reason in tuning.unavailable.items():
        note(f"note: {provider} is left out: {reason}")
    for reason in sorted({f"{c.subject.name} on {c.subject.target.provider} is left out: {c.refused}" for c in tuning.refused}):
        note(f"note: {reason}")


def _cells(judged: "Judged") -> tuple[str, ...]:
    target = judged.subject.target
    exact = "" if target.provider == "cpu" else " exact" if target.exact else " reduced"
    settings = (str(value) if value is not None else "-" for value in (target.threads, target.streams, target.micro_batch))
    options = "".join(f" {name}={value}" for name, value in target.provider_options.items())
    return judged.subject.name, target.provider + exact + options, *settings


def _answers(judged: "Judged") -> tuple[str, str]:
    agreement = f"{judged.agreement:.2%}" if judged.agreement is not None else "-"
    return agreement, f"{judged.top1:.2%}" if judged.top1 is not None else "-"

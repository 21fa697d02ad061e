"""``edgeresnet verify``."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeresnet.cli.options import EXISTING_FILE, format_option, target_options
from edgeresnet.cli.terminal import note, note_run
from edgeresnet.target import Target

if TYPE_CHECKING:
    from edgeresnet.profile import Profile
    from edgeresnet.verification import Verification

EPILOG = """\b
Examples:
  edgeresnet verify
  edgeresnet verify resnet18-int8.onnx --threads 1
  edgeresnet verify mobilenet-fp16.onnx --provider cuda --format json
"""


@click.command(epilog=EPILOG)
@click.argument("model", type=EXISTING_FILE, required=False)
@target_options
@format_option("table", "json")
def command(model: Path | None, target: Target, profile: "Profile | None", style: str) -> None:
    """Find out whether this machine answers as the one that MODEL was made on (the bundled INT8 network by default).

    Every file of this project carries a few images and what its maker saw it answer. Needs no data, no PyTorch and no network. Exit
    status 1 if the file is not what its maker wrote, or the answers differ by more than its precision explains.
    """
    from edgeresnet.classifier import Classifier, bundled_model

    if profile is not None and model is not None:
        raise click.UsageError("MODEL cannot change what --profile sets")
    path = profile.model if profile is not None else model or bundled_model()
    with Classifier(path, target=target) as classifier:
        note_run(classifier.session)
        result = classifier.verify()
    if style == "json":
        print(json.dumps({"schema": "edgeresnet.verification/1", "model": str(path), "holds": result.holds, **asdict(result)}, indent=1))
    else:
        print(f"{path}: {_describe(result)}")
    if not result.intact:
        note(f"error: {path}: is not what its maker wrote: its bytes have changed since; fix: get the file again")
    if not result.answers_hold:
        note(f"error: {path}: this machine answers differently than the maker's did; fix: another provider, or another precision")
    if not result.holds:
        raise click.exceptions.Exit(1)


def _describe(result: "Verification") -> str:
    alike = (
        f"{result.closeness_db:.1f} dB from the maker's answers to {result.count} image(s)"
        if result.largest_difference
        else (f"the maker's answers to {result.count} image(s), bit for bit")
    )
    return (
        f"{alike} (at least {result.least_db:.1f} dB are needed), largest logit difference {result.largest_difference:.2g}, "
        f"{result.agreement:.0%} the same class; {result.provider}, {result.threads} thread(s)"
    )

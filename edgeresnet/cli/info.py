"""``edgeresnet info``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from edgeresnet.cli.options import EXISTING_FILE, format_option
from edgeresnet.cli.terminal import printable, show
from edgeresnet.spec import PREFIX

SHOWN_LABELS: Final = 20


@click.command(epilog="Example: edgeresnet info resnet18-int8.onnx")
@click.argument("model", type=EXISTING_FILE)
@format_option("table", "json")
def command(model: Path, style: str) -> None:
    """Show a model's metadata, operators, size and SHA-256. Needs neither onnx nor ONNX Runtime, and reads any ONNX file."""
    from edgeresnet.modelfile import read_model_file

    file = read_model_file(model)
    facts: dict[str, Any] = {
        "file": str(model),
        "size_bytes": len(file.content),
        "sha256": file.sha256,
        "ir_version": file.ir_version,
        "opset": file.opset,
        "producer": file.producer,
        "external_data": file.has_external_data,
        "operators": dict(file.operators),
        "metadata": dict(file.metadata),
    }
    if style == "json":
        print(json.dumps(facts, indent=1))
    else:
        facts["metadata"] |= _summarize_labels(file.metadata)
        _show_table(facts)


def _summarize_labels(metadata: Mapping[str, str]) -> dict[str, str]:
    """Many labels in one line: how many they are, and those at either end."""
    key = f"{PREFIX}labels"
    try:
        labels = json.loads(metadata[key])
    except (KeyError, ValueError, RecursionError):
        return {}
    if not isinstance(labels, list) or len(labels) <= SHOWN_LABELS:
        return {}
    return {key: f"{len(labels):,}: {', '.join(map(str, labels[:SHOWN_LABELS]))}, ..., {labels[-1]} (all of them: --format json)"}


def _show_table(facts: dict[str, Any]) -> None:
    from rich.table import Table

    from edgeresnet.verification import GOLDEN_KEY

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if name == "metadata":
            for key, text in value.items():
                table.add_row(printable(key), f"{len(text):,} bytes, for `edgeresnet verify`" if key == GOLDEN_KEY else printable(text))
        elif name == "operators":
            table.add_row(name, printable(", ".join(f"{count} {operator}" for operator, count in value.items())))
        else:
            table.add_row(name, f"{value:,}" if name == "size_bytes" else printable(str(value)))
    show(table)

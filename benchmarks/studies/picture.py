"""The front page's picture: latency of every form of the bundled network, from a record of `edgeresnet bench`.

``python -m benchmarks.studies.picture benchmarks/records/cpu.json --output benchmarks/records/cpu.svg``
"""

import json
from io import StringIO
from pathlib import Path
from typing import Any, Final

import click

from edgeresnet.extras import needing
from edgeresnet.files import write_text

OURS: Final = "#2f81f7"
OTHERS: Final = "#8b949e"
NAMES: Final = {"fp32": "FP32", "fp16": "FP16", "int8": "INT8", "int8-static": "INT8, static", "int8-stock": "stock INT8"}
INK: Final = "#1f2328"
# A page shows the picture on its own background: transparent, and with lighter letters where that is dark.
DARK: Final = "<style>@media (prefers-color-scheme: dark) { text { fill: #e6edf3 !important } }</style>"


def draw(record: dict[str, Any]) -> str:
    """Bars of the median latency at batch 1, the slowest on top, as SVG whose text is text.

    Args:
        record: Of ``benchmarks.record``, as JSON values.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    with needing("train", "the picture"):
        import matplotlib as mpl
        from matplotlib.figure import Figure
    bars = sorted((_describe(result) for result in record["results"] if result["latency"]), reverse=True)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "edgeresnet", "font.family": "sans-serif", "text.color": INK}):
        figure = Figure(figsize=(7.2, 0.36 * len(bars) + 0.5), layout="constrained")
        axes = figure.add_subplot()
        for place, (p50_ms, name, said, colour) in enumerate(bars):
            axes.barh(-place, p50_ms, height=0.62, color=colour)
            axes.text(-0.15, -place, name, ha="right", va="center", fontsize=10)
            axes.text(p50_ms + 0.1, -place, said, ha="left", va="center", fontsize=10)
        environment, threads = record["environment"], record["settings"]["threads"]
        title = f"milliseconds for one 32x32 image, {environment['cpu']}, {threads} threads (less is better)"
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlim(0, 1.35 * bars[0][0])
        axes.set_axis_off()
        text = StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    head, defs, rest = text.getvalue().partition("<defs>")
    lines = (head + DARK + defs + rest).split("\n")
    return "\n".join(line.rstrip() for line in lines)


def _describe(result: dict[str, Any]) -> tuple[float, str, str, str]:
    latency = next(each for each in result["latency"] if each["batch_size"] == 1)
    is_original = result["runtime"] == "pytorch"
    is_ours = not is_original and result["precision"] != "int8-stock"
    ratio = f" ({latency['speedup_vs_original']:.2f}x)" if latency["speedup_vs_original"] is not None and not is_original else ""
    name = "PyTorch" if is_original else NAMES.get(result["precision"], result["precision"])
    return latency["p50_ms"], name, f"{latency['p50_ms']:.2f} ms{ratio}", OURS if is_ours else OTHERS


@click.command()
@click.argument("record", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="SVG file.")
def command(record: Path, output: Path) -> None:
    """Draw the latencies of RECORD."""
    write_text(output, draw(json.loads(record.read_text())))


if __name__ == "__main__":
    command()

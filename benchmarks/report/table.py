"""A benchmark record as a table for people."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.record import Record, Result


def build_table(record: Record) -> Table:
    """One row for each model and batch size, with the conditions below; it fits a terminal of 80 columns."""
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False, caption=_caption(record), caption_justify="left")
    table.add_column("model", overflow="fold")
    table.add_column("form")
    device_only = any(latency.device_p50_ms is not None for result in record.results for latency in result.latency)
    timings = ("p50 ms", "p90 ms", *(("device",) if device_only else ()))
    for heading in ("MB", "batch", *timings, "img/s", "speed-up", "top-1", "agrees"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in record.results:
        for i, latency in enumerate(result.latency):
            accuracy = result.accuracy if i == 0 else None
            table.add_row(
                *(_identity(result) if i == 0 else ("", "", "")),
                str(latency.batch_size),
                f"{latency.p50_ms:.2f}",
                _number(latency.p90_ms),
                *((_number(latency.device_p50_ms),) if device_only else ()),
                f"{latency.images_per_s:,.0f}",
                f"{latency.speedup_vs_original:.2f}x" if latency.speedup_vs_original is not None else "-",
                _share(accuracy.top1 if accuracy else None),
                _share(accuracy.agreement_with_original if accuracy else None),
            )
    return table


def _identity(result: Result) -> tuple[str, str, str]:
    """Name, with the provider where it is not the CPU, precision and size."""
    name = "PyTorch original" if result.runtime == "pytorch" else f"{result.name} (original)" if result.original else result.name
    provider = result.provider.removesuffix("ExecutionProvider")
    elsewhere = result.runtime != "pytorch" and provider != "CPU"
    return f"{name} on {provider}" if elsewhere else name, result.precision, f"{result.size_bytes / 1e6:.1f}"


def _share(value: float | None) -> str:
    return f"{value:.2%}" if value is not None else "-"


def _number(value: float | None) -> str:
    return f"{value:.2f}" if value is not None else "-"


def _caption(record: Record) -> str:
    environment, settings = record.environment, record.settings
    lines = [
        f"{environment['cpu']} ({', '.join(environment['instruction_sets']) or 'instruction sets unknown'}), "
        f"{settings['threads']} thread(s) of {environment['cores_allowed']} cores, "
        + ", ".join(
            f"{name} {environment['packages'][name]}"
            for name in ("torch", "onnxruntime", "onnxruntime-gpu")
            if name in environment["packages"]
        ),
    ]
    if any(latency.device_p50_ms is not None for result in record.results for latency in result.latency):
        lines.append("device: median ms with input and output already on the device; p50 and p90 include the copies")
    accuracy = record.results[0].accuracy
    if accuracy is not None:
        lines.append(f"answers on {accuracy.count:,} images: {accuracy.data}")
    return "\n".join(lines)

"""A benchmark record as a table for people."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.record import Record
from benchmarks.report.rows import lay_out
from edgeresnet.target import PROVIDERS

CPU_PROVIDER, CUDA_PROVIDER = PROVIDERS["cpu"], PROVIDERS["cuda"]
# A 90th percentile this far above the median says that something else used the machine.
UNSTABLE_RATIO = 1.5


def build_table(record: Record) -> Table:
    """One row for each model, batch size and number of threads, with the conditions below; it fits a terminal of 80 columns."""
    layout = lay_out(record)
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False, caption="\n".join(layout.notes), caption_justify="left")
    for heading, is_number in zip(layout.headings, layout.numbers, strict=True):
        if is_number:
            table.add_column(heading, justify="right", no_wrap=True)
        else:
            table.add_column(heading, overflow="fold")
    for row in layout.rows:
        table.add_row(*row)
    return table


def find_warnings(record: Record) -> list[str]:
    """What a reader of the figures should know before believing them."""
    warnings = [
        f"{result.name}, batch {latency.batch_size}: unstable, p90 is {latency.p90_ms / latency.p50_ms:.1f}x the median; machine busy?"
        for result in record.results
        for latency in result.latency
        if latency.p90_ms is not None and latency.p90_ms > UNSTABLE_RATIO * latency.p50_ms
    ]
    fp32 = {
        latency.batch_size: latency.p50_ms
        for r in record.results
        if r.precision == "fp32" and r.runtime == "onnxruntime"
        for latency in r.latency
    }
    warnings += [
        f"{result.name}, batch {latency.batch_size}: slower than FP32 here, {latency.p50_ms:.2f} against {fp32[latency.batch_size]:.2f} ms"
        for result in record.results
        if result.precision in ("int8", "int8-static")
        for latency in result.latency
        if latency.p50_ms > fp32.get(latency.batch_size, float("inf"))
    ]
    warnings += [
        f"{result.name}: FP16 is made for GPUs; processors without FP16 arithmetic convert to FP32 and back"
        for result in record.results
        if result.precision == "fp16" and result.provider == CPU_PROVIDER
    ]
    if CUDA_PROVIDER in {result.provider for result in record.results} and "fp16" not in {result.precision for result in record.results}:
        warnings.append("FP16 is CUDA's fast format and is not among these models: edgeresnet export --precision fp16")
    warnings += [f"{result.name}: {result.arithmetic}" for result in record.results if result.arithmetic is not None]
    return warnings

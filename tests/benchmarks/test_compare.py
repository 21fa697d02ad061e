"""What changed between two records: verdicts, what cannot be compared, and gates."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from benchmarks.changes import compare_latency
from benchmarks.compare import compare_records
from benchmarks.gates import Gate, judge
from benchmarks.intervals import estimate_ratio, newcombe_interval, paired_interval
from benchmarks.report.comparison import build_comparison_view, to_markdown_comparison

ORIGINAL, FP32, INT8 = "network.safetensors", "network-fp32.onnx", "network-int8.onnx"


@pytest.fixture(scope="module")
def old(make_record):
    return make_record()


def changes(comparison, name=INT8):
    """By figure, batch size and threads."""
    (pair,) = [pair for pair in comparison.pairs if pair.name == name]
    return {(change.figure, change.batch_size, change.threads): change for change in pair.changes}


def without_rounds(record):
    results = [replace(result, latency=[replace(entry, rounds=[]) for entry in result.latency]) for result in record.results]
    return replace(record, results=results)


def test_another_run_of_the_same_is_the_same(old, make_record):
    for seed in range(1, 4):
        comparison = compare_records(old, make_record(seed=seed))
        assert {change.verdict for _, change in comparison.changes} == {"same"}
    figures = {(change.figure) for _, change in comparison.changes}
    assert figures == {"p50", "p90", "p99", "images_per_s", "load", "memory", "size", "top1", "agreement"}
    assert comparison.same == len(list(comparison.changes)) == 54


def test_a_slowed_model_is_slower_and_the_others_are_not(old, make_record):
    slowed = make_record(seed=1, slower=((INT8, 1.2),))
    found = changes(compare_records(old, slowed))
    for batch, threads in ((1, 1), (1, 2), (8, 2), (32, 2)):
        change = found["p50", batch, threads]
        assert (change.verdict, change.change) == ("slower", pytest.approx(0.2, abs=0.03))
        assert change.interval99[0] < 0.2 < change.interval99[1] < 0.25
    assert {change.verdict for change in changes(compare_records(old, slowed), FP32).values()} == {"same"}
    assert changes(compare_records(slowed, old))["p50", 1, 2].verdict == "faster"


def test_a_verdict_needs_both_keys(old, make_record):
    slowed = make_record(seed=1, slower=((INT8, 1.2),))
    assert changes(compare_records(old, slowed, threshold=0.3))["p50", 1, 2].verdict == "same", "significant and not large"
    noisy = [np.random.default_rng(i).normal(m, 0.01, 50).tolist() for i, m in enumerate((1, 1.6, 1, 1.6, 1.0, 1.55, 1.6, 1.6))]
    entry = old.results[2].latency[1]
    rounds = [replace(entry.rounds[0], samples=50, doubt=None)] * 8
    scattered = replace(entry, rounds=rounds, samples_ms=[1.53 * t for part in noisy for t in part])
    latency = [*old.results[2].latency[:1], scattered, *old.results[2].latency[2:]]
    new = replace(old, results=[*old.results[:2], replace(old.results[2], latency=latency)])
    change = changes(compare_records(old, new))["p50", 1, 2]
    assert change.change > 0.05
    assert change.interval99[0] < 0 < change.interval99[1]
    assert change.verdict == "same", "large and not significant"


def test_the_threshold_is_the_same_there_and_back(old, with_result):
    smaller = with_result(old, INT8, size_bytes=round(5_760_000 * 0.951))
    assert changes(compare_records(old, smaller))["size", None, None].verdict == "smaller", "since back again it is more than 5 %"
    assert changes(compare_records(smaller, old))["size", None, None].verdict == "larger"
    assert changes(compare_records(old, with_result(old, INT8, size_bytes=5_760_000 * 21 // 20)))["size", None, None].verdict == "same"


def test_doubted_rounds_are_left_out(old):
    """Round 3 of every series is disturbed to 2.5 times as long."""
    entry = old.results[2].latency[0]
    assert sorted(entry.believed_rounds) == [0, 1, 2, 4, 5, 6, 7]
    times = np.concatenate([*entry.believed_rounds.values()])
    assert estimate_ratio(entry.believed_rounds, {0: [1.0] * 3}, quantile=0.9).value == pytest.approx(np.percentile(times, 90))


def test_quantiles_of_resampled_rounds_are_numpys():
    rounds = {i: np.random.default_rng(i).gamma(2, 1, 120).tolist() for i in range(9)}
    low, high = estimate_ratio(rounds, dict.fromkeys(range(9), [1.0] * 9), 0.99, 0.9).interval
    drawn = np.random.default_rng(5).integers(0, 9, (2000, 9))
    table = np.array(list(rounds.values()))
    expected = np.percentile([np.percentile(table[row], 90) for row in drawn], [0.5, 99.5])
    assert [low, high] == pytest.approx(expected.tolist(), rel=0.02)


def test_records_without_rounds_get_no_verdict(old, make_record):
    found = changes(compare_records(without_rounds(old), make_record(slower=((INT8, 3.0),))))
    change = found["p50", 1, 2]
    assert (change.verdict, change.interval99, change.significant) == ("no rounds", None, None)
    assert change.change == pytest.approx(2.0, abs=0.1)
    assert change.reason == "the old record has no rounds"


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"cpu": "Slide rule"}, "other machine (Abacus 3000 and Slide rule)"),
        ({"instruction_sets": ["avx2"]}, "other machine (avx2, fma, avx512_vnni and avx2)"),
    ],
)
def test_another_machine_hinders_speeds_and_not_answers(old, environment, reason):
    found = changes(compare_records(old, replace(old, environment={**old.environment, **environment})))
    for figure, change in found.items():
        expected = ("same", None) if figure[0] in ("size", "top1", "agreement") else ("not comparable", reason)
        assert (change.verdict, change.reason) == expected, figure


def test_what_else_cannot_be_compared(old, with_result, make_record):
    def compare(**fields):
        return compare_records(old, with_result(old, INT8, **fields))

    int8 = old.results[2]
    (pair,) = [pair for pair in compare(checkpoint_sha256="f" * 64).pairs if pair.name == INT8]
    assert (pair.changes, pair.reason, pair.broke) == ([], "other weights (c0ffee000000 and ffffffffffff)", False)
    (pair,) = [pair for pair in compare(error="does not load", latency=[], accuracy=None).pairs if pair.name == INT8]
    assert (pair.changes, pair.reason, pair.broke) == ([], "failed in the new record (does not load)", True)
    found = changes(compare(provider="CUDAExecutionProvider"))
    assert found["p50", 1, 2].reason == "other provider (CPUExecutionProvider and CUDAExecutionProvider)"
    assert changes(compare(arithmetic="TF32"))["p50", 1, 2].reason == "other arithmetic (FP32 and TF32)"
    moved = [replace(entry, threads=4) if entry.threads == 2 else entry for entry in int8.latency]
    found = changes(compare(latency=moved))
    assert found["p50", 1, 1].verdict == "same"
    assert found["p50", 1, 2].reason == "measured for the old record only"
    assert found["p50", 1, 4].reason == "measured for the new record only"
    for fields, reason in (
        ({"data": "letters"}, "other data (2,000 images, CIFAR-10 test set, JPEG copy, and 2,000 images, letters)"),
        ({"data_sha256": "0" * 64}, "other data (SHA-256 da7ada7ada7a and 000000000000)"),
    ):
        found = changes(compare(accuracy=replace(int8.accuracy, **fields)))
        assert [found[figure, None, None].reason for figure in ("top1", "agreement")] == [reason, reason]
        assert found["p50", 1, 2].verdict == "same"
    doubted = changes(compare_records(old, make_record(doubted=(INT8,))))
    assert doubted["p50", 1, 2].reason == "doubted in the new record (other processes kept its cores busy in 8 of 8 rounds)"
    assert doubted["p50", 8, 2].verdict == "same"
    cores = replace(old, environment={**old.environment, "cores_allowed": 9})
    assert changes(compare_records(old, cores))["images_per_s", None, None].reason == "other number of cores (2 and 9)"


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_figures_that_make_no_sense_are_not_compared(old, with_result, value):
    entry, *others = old.results[2].latency
    rounds = [replace(visit, samples=0) for visit in entry.rounds]
    offline = replace(old.results[2].offline, images_per_s=value)
    for broken in (replace(entry, p50_ms=value), replace(entry, samples_ms=[value, *entry.samples_ms[1:]])):
        found = changes(compare_records(old, with_result(old, INT8, latency=[broken, *others], load_ms=value, offline=offline)))
        for place in (("p50", 1, 1), ("load", None, None), ("images_per_s", None, None)):
            assert (found[place].verdict, found[place].reason) == ("not comparable", "a figure in a record is not a positive number")
    empty = changes(compare_records(old, with_result(old, INT8, latency=[replace(entry, rounds=rounds), *others])))
    assert empty["p50", 1, 1].verdict == "no rounds"


def test_versions_are_told_and_hinder_nothing(old):
    packages = {**old.environment["packages"], "onnxruntime": "2.0", "onnx": "9.9"}
    new = replace(old, environment={**old.environment, "packages": packages}, settings={**old.settings, "streams": 2}, interrupted=True)
    comparison = compare_records(old, new)
    assert comparison.remarks == [
        "onnx: not installed and 9.9",
        "onnxruntime: 1.32.0 and 2.0",
        "setting streams: None and 2",
        "the new record was interrupted",
    ]
    assert {change.verdict for _, change in comparison.changes} == {"same"}


def test_models_are_matched_by_name_or_by_what_they_alone_are(old, with_result):
    renamed = with_result(old, INT8, name="better-int8.onnx")
    comparison = compare_records(old, renamed)
    assert [(pair.old_name, pair.name) for pair in comparison.pairs] == [(n, n) for n in (ORIGINAL, FP32)] + [(INT8, "better-int8.onnx")]
    other = with_result(renamed, FP32, precision="int8")
    comparison = compare_records(old, other)
    assert [pair.name for pair in comparison.pairs] == [ORIGINAL, FP32]
    assert (comparison.only_old, comparison.only_new) == ([INT8], ["better-int8.onnx"])
    twice = replace(old, results=[*old.results, replace(old.results[2], size_bytes=1)])
    comparison = compare_records(twice, twice)
    assert [(pair.name, pair.changes[-3].new) for pair in comparison.pairs[2:]] == [(INT8, 5_760_000), (INT8, 1)]


def test_accuracy_is_compared_image_by_image_where_the_records_allow(old, make_record, with_result):
    new = make_record(answers=3)
    change = changes(compare_records(old, new))["top1", None, None]
    rights = []
    for record in (old, new):
        original, model = (np.array(result.accuracy.confusion).trace() for result in (record.results[0], record.results[2]))
        rights.append(int(model))
        assert original == 1840
    lost, gained = (int(part.split()[0]) for part in change.basis.removeprefix("image by image: ").split(", "))
    assert gained - lost == rights[1] - rights[0]
    assert change.change == pytest.approx((gained - lost) / 2000)
    cut = replace(new.results[2].accuracy, disagreements=new.results[2].accuracy.disagreements[:4])
    alone = changes(compare_records(old, with_result(new, INT8, accuracy=cut)))["top1", None, None]
    assert alone.basis.startswith("answers taken as independent (Newcombe)")
    assert alone.interval99[0] < 2 * change.interval99[0], "pairs tell more"
    assert alone.interval99 == newcombe_interval(old.results[2].accuracy.top1, cut.top1, 2000, 2000, 0.99)
    worse = with_result(new, INT8, accuracy=replace(cut, top1=cut.top1 - 0.05))
    assert changes(compare_records(old, worse))["top1", None, None].verdict == "worse"
    assert changes(compare_records(worse, old))["top1", None, None].verdict == "better"


def test_answers_are_not_paired_over_originals_that_may_differ(old, make_record, with_result):
    new = make_record(answers=3)
    reference = new.results[0].accuracy
    turned = [*reversed(reference.confusion)]
    one, other = old.results[2].accuracy, new.results[2].accuracy
    shared = replace(other.disagreements[0], index=one.disagreements[0].index, original="nothing")
    for doubtful in (
        with_result(new, ORIGINAL, checkpoint_sha256=None),
        with_result(new, ORIGINAL, accuracy=replace(reference, confusion=turned)),
        with_result(new, ORIGINAL, accuracy=None),
        with_result(new, INT8, accuracy=replace(other, disagreements=[shared, *other.disagreements[1:]])),
    ):
        assert changes(compare_records(old, doubtful))["top1", None, None].basis.startswith("answers taken as independent")


def test_intervals_of_differences_are_those_of_the_papers():
    # Newcombe (1998), table II, example (a), method 10: 56 of 70 less 48 of 80.
    assert newcombe_interval(48 / 80, 56 / 70, 80, 70) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    z = stats.norm.ppf(0.995)
    low, high = paired_interval(10, 30, 500, 0.99)
    centre = 20 / 502
    half = z * np.sqrt(41 - 20**2 / 502) / 502
    assert (low, high) == pytest.approx((centre - half, centre + half))


# --- gates


@pytest.mark.parametrize(
    ("text", "figure", "bound", "rising"),
    [("p50>+5%", "p50", 0.05, True), (" top1 < -0.1 ", "top1", -0.001, False), ("images_per_s<-2.5%", "images_per_s", -0.025, False)],
)
def test_a_gate_is_read(text, figure, bound, rising):
    gate = Gate.parse(text)
    assert (gate.figure, gate.bound, gate.rising) == (figure, pytest.approx(bound), rising)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p50>5%", "> goes with a +"),
        ("p50<5%", "< goes with a -"),
        ("p50>-5%", "> goes with a +"),
        ("p50>+5", "relative, with a %"),
        ("top1<-0.1%", "in points, without a %"),
        ("p51>+5%", "there is no figure 'p51'; choose from p50, p90"),
        ("p50>+\u0665%", "is not FIGURE>"),
        ("p50>=+5%", "is not FIGURE>"),
        ("p50>+5%;", "is not FIGURE>"),
        ("p50>+inf%", "is not FIGURE>"),
        ("p50", "is not FIGURE>"),
        ("size<-100%", "can never hold"),
    ],
)
def test_what_is_no_gate_is_refused(text, message):
    with pytest.raises(ValueError, match=r".") as refused:
        Gate.parse(text)
    assert message in str(refused.value)


def test_gates_need_a_change_that_is_significant_and_that_large(old, make_record):
    slowed = compare_records(old, make_record(seed=1, slower=((INT8, 1.2),)))
    found = judge(Gate.parse("p50>+5%"), slowed)
    assert (found.passed, found.checked, len(found.failures)) == (False, 12, 4)
    assert found.failures[0].startswith("network-int8.onnx, p50, batch 1, 1 thread: +19.9 % (99 % interval +18.4 % to")
    assert judge(Gate.parse("p50>+30%"), slowed).passed, "not that large"
    assert judge(Gate.parse("p50<-5%"), slowed).passed, "not in that direction"
    assert judge(Gate.parse("p50>+0%"), compare_records(old, make_record(seed=2))).passed, "not significant"


def test_single_figures_are_judged_by_size(old, with_result):
    grown = compare_records(old, with_result(old, INT8, size_bytes=5_760_000 + 57_601, load_ms=45.0, peak_memory_bytes=1))
    assert not judge(Gate.parse("size>+1%"), grown).passed
    assert judge(Gate.parse("size>+1.1%"), grown).passed
    assert not judge(Gate.parse("load>+20%"), grown).passed
    assert judge(Gate.parse("memory>+20%"), grown).passed
    found = changes(grown)
    assert [found[figure, None, None].verdict for figure in ("size", "load", "memory")] == ["same", "no rounds", "smaller"]


def test_a_gate_that_looked_at_nothing_does_not_pass(old, with_result, make_record):
    elsewhere = compare_records(old, replace(old, environment={**old.environment, "cpu": "Slide rule"}))
    found = judge(Gate.parse("p50>+5%"), elsewhere)
    assert (found.passed, found.checked, found.failures, len(found.unchecked)) == (False, 0, [], 12)
    assert judge(Gate.parse("size>+5%"), elsewhere).passed
    found = judge(Gate.parse("p90>+5%"), compare_records(without_rounds(old), old))
    assert (found.passed, found.checked) == (False, 0)
    partly = judge(Gate.parse("p50>+5%"), compare_records(old, make_record(doubted=(INT8,))))
    assert (partly.passed, partly.checked, len(partly.unchecked)) == (True, 10, 2)
    unmeasured = compare_records(old, with_result(old, INT8, offline=None))
    assert judge(Gate.parse("images_per_s<-5%"), unmeasured).unchecked == [f"{INT8}: images_per_s is not in both records"]


def test_a_model_that_no_longer_runs_fails_every_gate(old, with_result):
    broken = with_result(old, INT8, error="does not load", latency=[], accuracy=None)
    found = judge(Gate.parse("top1<-0.1"), compare_records(old, broken))
    assert (found.passed, found.failures) == (False, [f"{INT8}: failed in the new record (does not load)"])
    assert judge(Gate.parse("top1<-0.1"), compare_records(broken, old)).passed, "it may be repaired"


# --- how it is shown


def test_the_table_fits_80_columns_and_tells_what_it_hides(old, make_record):
    new = make_record(seed=1, slower=((INT8, 1.2),), doubted=(FP32,))
    console = Console(width=80, file=io.StringIO(), legacy_windows=False)
    console.print(build_comparison_view(compare_records(old, new)))
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    (row,) = [line for line in shown.splitlines() if line.strip().startswith("p50, batch 8, 2 threads")]
    assert row.split()[5:] == ["10.28", "ms", "12.32", "ms", "+19.8", "%", "+17.3", "to", "+22.4", "slower"]
    words = " ".join(shown.split())
    assert "40 figure(s) the same: no change that is both significant and at least 5 %; hidden, --all shows them" in words
    assert "not comparable: 6 figure(s) of network-fp32.onnx: doubted in the new record" in words


def test_markdown_shows_names_as_they_are(old, with_result):
    evil = "[x](http://e)|<b>`*.onnx"
    new = with_result(old, INT8, name=evil, size_bytes=1)
    shown = to_markdown_comparison(compare_records(old, new))
    assert r"\[x\](http://e)\|\<b\>\`\*.onnx" in shown
    rows = [line for line in shown.splitlines() if line.startswith("| ")]
    assert {line.replace(r"\|", "").count("|") for line in rows} == {8}


@pytest.fixture(scope="module")
def files(tmp_path_factory, old, make_record):
    folder = tmp_path_factory.mktemp("records")
    records = {"old": old, "slow": make_record(seed=1, slower=((INT8, 1.2),)), "again": make_record(seed=2)}
    for name, record in records.items():
        (folder / f"{name}.json").write_text(record.to_json())
    return {name: folder / f"{name}.json" for name in records}


def test_the_command_ends_with_1_where_a_gate_fails(run_cli, files):
    assert run_cli("compare", files["old"], files["slow"]).status == 0
    found = run_cli("compare", files["old"], files["slow"], "--fail-if", "size>+1%", "--fail-if", "p50>+5%")
    assert found.status == 1
    assert "held: size>+1% (3 figure(s))" in found.err
    assert "failed: p50>+5%: network-int8.onnx, p50, batch 32, 2 threads: +21.6 %" in found.err
    assert run_cli("compare", files["old"], files["again"], "--fail-if", "p50>+5%").status == 0
    refused = run_cli("compare", files["old"], files["again"], "--fail-if", "p50")
    assert (refused.status, refused.out) == (2, "")
    assert run_cli("compare", files["old"], files["again"], "--threshold", "5").status == 2


def test_the_command_shows_what_is_asked_for(run_cli, files):
    assert "top-1" not in run_cli("compare", files["old"], files["slow"]).out
    assert "top-1" in run_cli("compare", files["old"], files["slow"], "--all").out
    assert "slower" not in run_cli("compare", files["old"], files["slow"], "--threshold", "40%").out
    found = json.loads(run_cli("compare", files["old"], files["slow"], "--format", "json", "--fail-if", "p50>+5%").out)
    assert (found["schema"], found["threshold"], found["same"], found["p50_count"]) == ("edgeresnet.comparison/1", 0.05, 46, 12)
    assert found["gates"][0]["passed"] is False
    assert found["p50_geometric_mean"] == pytest.approx(1.2 ** (1 / 3), abs=0.01)


def test_what_is_no_record_is_refused(run_cli, files, tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text('{"schema": "edgeresnet.bench/1", "results": [{}]}')
    found = run_cli("compare", files["old"], broken)
    assert found.status == 1
    assert found.err.startswith(f"error: {broken}: is not a whole benchmark record")


def repeat(latency, times, factor=1.0):
    """The same rounds with each call several times, all of them longer by a factor."""
    parts = latency.believed_rounds.values()
    values = {f"{name}_ms": getattr(latency, f"{name}_ms") * factor for name in ("p50", "p90", "p99")}
    return replace(
        latency,
        rounds=[replace(visit, samples=times * visit.samples) for visit in latency.rounds],
        samples_ms=[factor * value for part in parts for value in part for _ in range(times)],
        **values,
    )


def test_a_verdict_needs_an_interval_that_lies_beyond_the_threshold_as_a_whole(old):
    before = repeat(old.results[2].latency[0], 20)
    for figure, least in (("p50", 1.05), ("p90", 1.10), ("p99", 1.20)):
        for factor, verdict in ((least - 0.02, "same"), (least + 0.25, "slower"), (1 / (least + 0.25), "faster")):
            after = repeat(old.results[2].latency[0], 20, factor)
            assert compare_latency(figure, before, after, 0.05).verdict == verdict, (figure, factor)


def test_a_tail_of_few_calls_has_no_verdict(old):
    latency = old.results[2].latency[0]
    change = compare_latency("p99", latency, repeat(latency, 1, 3.0), 0.05)
    assert (change.verdict, "too few for a verdict" in change.basis) == ("same", True)
    assert compare_latency("p50", latency, repeat(latency, 1, 3.0), 0.05).verdict == "slower"

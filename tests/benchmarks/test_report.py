"""The report: its figures are the record's, it needs nothing else, and what comes from others is shown as it is."""

import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from benchmarks.accuracy import fingerprint_data
from benchmarks.loads import LayerTime
from benchmarks.record import Record
from benchmarks.report.html import find_extremes, write_html
from benchmarks.report.verdict import choose_place, describe_paired, keeps_accuracy, reach_verdict
from edgeresnet.datasets import LabelledImages, read_split
from edgeresnet.errors import DataError

ORIGINAL, FP32, INT8 = "network.safetensors", "network-fp32.onnx", "network-int8.onnx"
EVIL = """<script>alert(1)</script>'"&<img src=x onerror=y>"""


class Page(HTMLParser):
    """What a browser would find: figures by table and row, tags with their attributes, and all text outside of styles."""

    def __init__(self, text):
        super().__init__()
        self.source = text
        self.figures, self.tags, self.words, self.matrices = {}, [], [], {}
        self._table = self._row = self._figure = self._quiet = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        if tag == "table":
            self._table = found.get("class", "").split()
            if "confusion" in self._table:
                self.matrices[found["data-model"]] = []
        elif tag == "tr":
            self._row = found
        elif tag == "style":
            self._quiet = tag
        elif tag == "data":
            self._figure = found
        elif tag == "td" and "confusion" in self._table:
            self._figure = "count"

    def handle_endtag(self, tag):
        self._quiet = None if tag == self._quiet else self._quiet
        self._figure = None if tag in ("data", "td") else self._figure

    def handle_data(self, text):
        if self._quiet is None:
            self.words.append(text)
        if self._figure == "count":
            self.matrices[list(self.matrices)[-1]].append(int(text))
        elif self._figure is not None and self._row is not None:
            place = self._row.get("data-model"), self._row.get("data-batch"), self._row.get("data-threads"), self._figure["data-figure"]
            self.figures[place] = (float(self._figure["value"]), text)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def page_of(tmp_path, *records, **how):
    write_html(records, tmp_path / "page.html", **how)
    return Page((tmp_path / "page.html").read_text("utf-8"))


@pytest.fixture(scope="module")
def record(make_record):
    return make_record()


@pytest.fixture(scope="module")
def small(make_record):
    """A record that is quickly drawn."""
    made = make_record(conditions=((1, 2),), samples=20)
    return replace(made, results=[replace(result, layers=None, server=None, sustained=None) for result in made.results])


@pytest.fixture(scope="module")
def page(record, tmp_path_factory):
    return page_of(tmp_path_factory.mktemp("page"), record)


def test_the_figures_are_the_records(record, page):
    for result in record.results:
        for entry in result.latency:
            place = result.name, str(entry.batch_size), str(entry.threads)
            for figure, form in (("p50_ms", ".2f"), ("p90_ms", ".2f"), ("p99_ms", ".2f"), ("images_per_s", ",.0f")):
                value = getattr(entry, figure)
                assert page.figures[*place, figure] == (value, format(value, form))
            ratio = page.figures.get((*place, "speedup_vs_original"))
            assert ratio == (None if result.original else (entry.speedup_vs_original, f"{entry.speedup_vs_original:.2f}x"))
        shown = {
            figure: page.figures[result.name, None, None, figure] for figure in ("p50_ms", "top1", "agreement_with_original", "load_ms")
        }
        assert shown["p50_ms"][0] == next(entry.p50_ms for entry in result.latency if (entry.batch_size, entry.threads) == (1, 2))
        assert shown["top1"] == (result.accuracy.top1, f"{100 * result.accuracy.top1:.2f}\N{NO-BREAK SPACE}%")
        assert shown["agreement_with_original"][0] == result.accuracy.agreement_with_original
        assert shown["load_ms"][0] == result.load_ms
        assert page.figures[result.name, None, None, "memory_mb"][0] == result.peak_memory_bytes / 1e6
        assert page.matrices[result.name] == [count for row in result.accuracy.confusion for count in row]


def test_the_page_needs_nothing_else(page):
    text = page.source
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link|\bon\w+=|javascript:", text)
    references = [*re.findall(r'(?:href|src|action)="([^"]*)"', text), *re.findall(r"url\(([^)]*)\)", text)]
    assert references
    assert {reference[0] for reference in references} == {"#"}
    names = re.findall(r'\bid="([^"]*)"', text)
    assert len(names) == len(set(names)), "drawings do not take each other's parts"
    assert {reference[1:] for reference in references} <= set(names)


def test_the_same_records_give_the_same_bytes(small, tmp_path, monkeypatch):
    for name in ("first", "second"):
        write_html([small], tmp_path / name)
        monkeypatch.setitem(__import__("matplotlib").rcParams, "lines.markeredgewidth", 7)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_drawings_take_their_colours_from_the_page(page):
    drawings = re.findall(r"<svg.*?</svg>", page.source, re.DOTALL)
    assert len(drawings) == 13
    for drawing in drawings:
        assert re.findall(r"#[0-9a-f]{6}\b", drawing.replace("#000000", "")) == []
        assert set(re.findall(r"var\(--([a-z]+)", drawing)) >= {"ink", "grid"}
        assert re.search(r"\((ms|images/s|1/s|%|MHz)\)|>(ms|images/s)<|\(%\)", drawing), "units"
    assert not re.search(r"(fill|stroke): #", "".join(drawings))


def test_the_page_has_every_part(page):
    for heading in (
        "The models",
        "Latency",
        "Every call",
        "Batches and threads",
        "Where the time goes",
        "Under load",
        "Answers",
        "Where and how",
    ):
        assert heading in page.text
    assert "layer4.1.conv2" in page.text
    assert "hottest sensor (°C)" in page.text
    assert "(McNemar's test, p = 0.0078)" in page.text
    assert "image 503" in page.text
    assert "load average 0.1, 0.2, 0.3 1.9, 0.9, 0.4" in page.text
    assert page.figures[INT8, None, None, "p50_ms"]


def test_what_comes_from_others_is_shown_as_it_is(small, with_result, tmp_path):
    int8 = small.results[2]
    accuracy = replace(
        int8.accuracy,
        data=EVIL,
        per_class={EVIL if i == 0 else f"c{i}": 0.5 for i in range(10)},
        disagreements=[replace(int8.accuracy.disagreements[0], truth=EVIL, model=EVIL)],
    )
    latency = [replace(entry, doubt=EVIL) for entry in int8.latency]
    layers = [LayerTime(layer=EVIL, operators=[EVIL], p50_ms=1.0, share=1.0)]
    new = with_result(small, INT8, name=EVIL, accuracy=accuracy, latency=latency, layers=layers)
    new = with_result(new, FP32, error=EVIL, arithmetic=EVIL, provider=EVIL)
    new = replace(new, environment={**new.environment, "cpu": EVIL, EVIL: {EVIL: EVIL}})
    shown = page_of(tmp_path, new, small, labels=(EVIL, "b"))
    assert {tag for tag, _ in shown.tags} & {"script", "img"} == set()
    assert not [name for _, found in shown.tags for name in found if name.startswith("on")]
    assert EVIL in shown.text


def test_doubted_figures_have_no_speedup(make_record, tmp_path):
    doubted = page_of(tmp_path, make_record(doubted=(INT8,), conditions=((1, 2), (8, 2)), samples=20))
    assert (INT8, "1", "2", "speedup_vs_original") not in doubted.figures
    assert (INT8, "8", "2", "speedup_vs_original") in doubted.figures
    assert "not to be believed: other processes kept its cores busy in 8 of 8 rounds" in doubted.text


def test_a_model_that_failed_is_told_of(small, with_result, tmp_path):
    failed = with_result(small, INT8, error="no such operator", latency=[], accuracy=None, load_ms=None, layers=None, offline=None)
    failed = with_result(failed, INT8, server=None, sustained=None, peak_memory_bytes=None)
    assert "could not be measured: no such operator" in page_of(tmp_path, failed).text


def test_records_of_before_have_a_page(tmp_path, make_record):
    document = json.loads(make_record(conditions=((1, 2),), samples=20).to_json())
    for result in document["results"]:
        for name in ("layers", "offline", "server", "sustained", "peak_memory_bytes", "sha256", "checkpoint_sha256"):
            del result[name]
        for name in ("confusion", "per_class", "disagreements", "paired", "corrupted", "top1_interval95", "data_sha256"):
            del result["accuracy"][name]
        for entry in result["latency"]:
            for name in ("rounds", "p50_interval95", "speedup_interval95"):
                del entry[name]
    del document["environment"]["before"], document["environment"]["after"]
    (tmp_path / "old.json").write_text(json.dumps(document))
    shown = page_of(tmp_path, Record.read(tmp_path / "old.json"))
    assert "this record does not tell rounds apart" in shown.text
    assert "(no interval: too few rounds)" in shown.text
    assert page_of(tmp_path, Record(environment={}, settings={}, results=[])).text.startswith("Benchmark: Nothing was measured.")


def test_records_stand_side_by_side(make_record, small, tmp_path):
    slower = make_record(seed=1, slower=((INT8, 1.2),), conditions=((1, 2),), samples=20)
    both = page_of(tmp_path, small, slower, labels=("before", "after"))
    assert "What changed from before to after" in both.text
    assert re.search(r"p50, batch 1, 2 threads \+2\d\.\d\d % \+1\d\.\d\d to \+2\d\.\d\d slower", both.text)
    assert both.text.count("Offline throughput, ") == 2


def test_of_many_classes_the_worst_and_the_best_are_shown(small, with_result, tmp_path):
    shares = {f"class {i}": i / 100 for i in range(100)}
    accuracy = replace(small.results[2].accuracy, per_class=shares, confusion=None)
    assert [name for name, _ in find_extremes(accuracy)] == [f"class {i}" for i in (*range(8), *range(92, 100))]
    shown = page_of(tmp_path, with_result(small, INT8, accuracy=accuracy))
    assert "class 7 7.0%" in shown.text
    assert "class 50" not in shown.text


# --- the verdict


def test_the_verdict_is_the_fastest_model_that_keeps_its_accuracy(record, with_result):
    verdict = reach_verdict(record)
    entry = record.results[2].latency[1]
    low, high = entry.speedup_interval95
    assert verdict.text == (
        f"network-int8.onnx is faster than the PyTorch original: {entry.speedup_vs_original:.2f}x as fast "
        f"(95 % interval {low:.2f} to {high:.2f}), 1.58 ms against 9.42 ms at batch 1, 2 threads."
    )
    lost = with_result(record, INT8, accuracy=replace(record.results[2].accuracy, top1=0.9149))
    assert reach_verdict(lost).best.name == FP32
    assert "network-int8.onnx is faster (1.58 ms), but network-int8.onnx is right on 91.49% of the images" in " ".join(
        reach_verdict(lost).details
    )


def test_the_verdict_says_why_it_cannot_say(record, make_record, with_result):
    nothing = reach_verdict(make_record(doubted=(INT8, FP32)))
    assert nothing.text == "No model can be recommended: no figure at batch 1, 2 threads can be believed."
    assert nothing.best is None
    assert "network-int8.onnx: other processes kept its cores busy in 8 of 8 rounds" in nothing.details
    noisy = with_result(record, ORIGINAL, latency=[replace(entry, doubt="busy") for entry in record.results[0].latency])
    for result in noisy.results[1:]:
        noisy = with_result(noisy, result.name, latency=[replace(entry, speedup_vs_original=None) for entry in result.latency])
    assert reach_verdict(noisy).text.endswith("By how much, nobody can tell: busy.")
    alone = replace(record, results=[replace(result, original=False) for result in record.results[1:]])
    assert reach_verdict(alone).text.endswith("There is no original to compare it with.")
    wide = [replace(entry, speedup_interval95=(0.9, 7.0)) for entry in record.results[2].latency]
    assert reach_verdict(with_result(record, INT8, latency=wide)).text.startswith("No model is faster than the PyTorch original by more")
    bad = with_result(with_result(record, INT8, accuracy=replace(record.results[2].accuracy, top1=0.1)), FP32, latency=[])
    assert reach_verdict(bad).text == "No model keeps the accuracy of the original."


def test_accuracy_is_kept_within_half_a_point(record):
    original, int8 = record.results[0], record.results[2].accuracy
    assert original.accuracy.top1 == 0.92
    assert keeps_accuracy(replace(int8, top1=0.9151), original)
    assert not keeps_accuracy(replace(int8, top1=0.9149), original)
    unlabelled = replace(original, accuracy=replace(original.accuracy, top1=None))
    assert keeps_accuracy(replace(int8, top1=None, agreement_with_original=0.99), unlabelled)
    assert not keeps_accuracy(replace(int8, top1=None, agreement_with_original=0.98), unlabelled)
    assert keeps_accuracy(None, original) is keeps_accuracy(int8, None) is None


def test_mcnemars_test_is_put_in_words(record):
    accuracy = record.results[2].accuracy
    assert describe_paired(accuracy).startswith(
        "It is worse than the original by more than chance: the original alone is right on 8 images"
    )
    chance = replace(accuracy.paired, only_original_right=5, only_model_right=4, p_value=1.0)
    assert describe_paired(replace(accuracy, paired=chance)).startswith("Its difference from the original may be chance")
    better = replace(accuracy.paired, only_original_right=0, only_model_right=40, p_value=1e-9)
    assert describe_paired(replace(accuracy, paired=better)).endswith("this model alone on 40 (McNemar's test, p < 0.0001).")
    assert describe_paired(replace(accuracy, paired=None)) is None


def test_the_place_is_the_smallest_batch_at_the_usual_threads(record):
    assert choose_place(record) == (1, 2)
    assert choose_place(replace(record, settings={"threads": 1})) == (1, 1)
    assert choose_place(replace(record, settings={})) == (1, 2)
    assert choose_place(replace(record, results=[])) is None


# --- the images, and the command


@pytest.fixture(scope="module")
def pictured(small, uneven_folder):
    """A record whose accuracy is of the uneven folder's test split."""
    images = read_split(uneven_folder, "test", size=32)
    found = [replace(result.accuracy, count=len(images), data_sha256=fingerprint_data(images)) for result in small.results]
    found = [replace(accuracy, disagreements=[replace(one, index=5) for one in accuracy.disagreements[:3]]) for accuracy in found]
    results = [replace(result, accuracy=accuracy) for result, accuracy in zip(small.results, found, strict=True)]
    return replace(small, results=results)


def test_images_on_which_models_disagree_are_shown(run_cli, pictured, uneven_folder, tmp_path):
    (tmp_path / "record.json").write_text(pictured.to_json())
    found = run_cli("report", tmp_path / "record.json", "--html", tmp_path / "page.html", "--data", uneven_folder)
    assert (found.status, found.out) == (0, "")
    shown = Page((tmp_path / "page.html").read_text())
    pictures = [found["src"] for tag, found in shown.tags if tag == "img"]
    assert len(pictures) == 3
    assert all(picture.startswith("data:image/png;base64,") for picture in pictures)


def test_other_images_are_refused(run_cli, pictured, labelled_folder, record, tmp_path):
    (tmp_path / "record.json").write_text(pictured.to_json())
    found = run_cli("report", tmp_path / "record.json", "--html", tmp_path / "page.html", "--data", labelled_folder)
    assert found.status == 1
    assert "are not those that the record's accuracy is of" in found.err
    assert not (tmp_path / "page.html").exists()
    blank = LabelledImages(images=np.zeros((1, 2, 2, 3), np.uint8), labels=np.zeros(1, np.int64), classes=("a",), name="blank")
    unknown = replace(record, results=[replace(r, accuracy=replace(r.accuracy, data_sha256=None)) for r in record.results])
    with pytest.raises(DataError, match="does not say which images"):
        write_html([unknown], tmp_path / "page.html", blank)


def test_the_command_takes_several_records(run_cli, small, tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.json").write_text(small.to_json())
    found = run_cli("report", tmp_path / "one.json", tmp_path / "two.json", "--html", tmp_path / "page.html")
    assert found.status == 0
    assert "What changed from one to two" in Page((tmp_path / "page.html").read_text()).text
    assert run_cli("report", tmp_path / "one.json").status == 2
    assert run_cli("report", "--html", tmp_path / "x.html").status == 2


def test_the_fingerprint_is_of_pixels_and_names(uneven_folder):
    images = read_split(uneven_folder, "test", size=32)
    names = "".join(f"{images.classes[label]}\n" for label in images.labels)
    assert fingerprint_data(images) == hashlib.sha256(images.images.tobytes() + names.encode()).hexdigest()

"""Many images from folders, lists and archives: they stream, and a run can be shared, interrupted and gone on with.

How fast that is, decoding included, beside the bare model on decoded pixels is measured by a command, on a quiet machine:

    python tests/edgeresnet/cli/test_predict_many.py FOLDER
"""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeresnet import Classifier, ImageError
from edgeresnet.bulk import Shard, read_done
from edgeresnet.classifier import STREAM_BATCH
from edgeresnet.errors import DataError
from edgeresnet.evaluation import synthetic_images
from edgeresnet.images import SUFFIXES

COUNT = 30


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of 30 images in three subfolders, with a readme."""
    folder = tmp_path_factory.mktemp("bulk") / "photos"
    for i, pixels in enumerate(synthetic_images(32, COUNT, seed=8)):
        path = folder / f"day{i % 3}" / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (folder / "readme.txt").touch()
    return folder


def rows_of(text):
    return [json.loads(line) for line in text.splitlines()]


def images_of(text):
    return [row["image"] for row in rows_of(text)]


@pytest.fixture(scope="module")
def expected(photos, exports):
    with Classifier(exports["fp32"].path) as classifier:
        return {str(path): classifier.predict(path).label for path in sorted(photos.rglob("*.png"))}


def test_folders_lists_and_archives_give_the_same_answers(run_cli, photos, exports, expected, tmp_path):
    model = ("--model", exports["fp32"].path, "--format", "jsonl")
    folder = run_cli("predict", photos, *model)
    assert {row["image"]: row["label"] for row in rows_of(folder.out)} == expected
    assert folder.err == f"note: {photos}: left out: 1 .txt file(s) (readme.txt)\n"
    (tmp_path / "names.txt").write_text("\n".join(expected) + "\n\n")
    assert run_cli("predict", "--list", tmp_path / "names.txt", *model).out == folder.out
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(photos.rglob("*.*")):
            archive.write(path, path.relative_to(photos))
    zipped = run_cli("predict", tmp_path / "photos.zip", *model)
    assert [row["label"] for row in rows_of(zipped.out)] == list(expected.values())
    assert images_of(zipped.out)[0] == f"{tmp_path}/photos.zip/day0/00.png"


def test_csv_has_a_line_an_image(run_cli, photos, exports, expected):
    result = run_cli("predict", photos, "--model", exports["fp32"].path, "--format", "csv", "--top", 2)
    table = list(csv.DictReader(io.StringIO(result.out)))
    assert {row["image"]: row["label"] for row in table} == expected
    assert list(table[0]) == ["image", "label", "score", "label_2", "score_2"]
    assert all(float(row["score"]) >= float(row["score_2"]) for row in table)


@pytest.mark.parametrize("style", ["table", "json", "jsonl", "csv"])
def test_an_output_file_holds_what_would_be_printed(run_cli, photos, exports, tmp_path, style):
    arguments = ("predict", photos / "day0", "--model", exports["fp32"].path, "--format", style)
    printed = run_cli(*arguments).out
    result = run_cli(*arguments, "--output", tmp_path / "out")
    assert result.out == ""
    assert (tmp_path / "out").read_text() == printed
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_bad_images_and_archives_are_named_and_the_rest_goes_on(run_cli, photos, exports, tmp_path):
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("bad.png", b"junk")
        archive.write(photos / "day0" / "00.png", "good.png")
    (tmp_path / "broken.tar").write_bytes(b"junk" * 500)
    (tmp_path / "list").write_text("nowhere.png\n")
    places = (tmp_path / "broken.tar", tmp_path / "some.zip", photos / "day1" / "01.png", "--list", tmp_path / "list")
    result = run_cli("predict", *places, "--model", exports["fp32"].path, "--format", "jsonl")
    assert result.status == 1
    assert images_of(result.out) == [f"{tmp_path}/some.zip/good.png", str(photos / "day1" / "01.png")]
    broken, bad, missing, summary = result.err.splitlines()
    assert "broken.tar: the archive cannot be read" in broken
    assert f"error: {tmp_path}/some.zip/bad.png: image data of 4 bytes: not an image" in bad
    assert "nowhere.png: no such file" in missing
    assert summary == "error: 3 of 5 images could not be read"


def test_an_archive_without_images_is_an_error_as_a_folder_is(run_cli, photos, exports, tmp_path):
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    failed = run_cli("predict", tmp_path / "empty.zip", photos, "--model", exports["fp32"].path, "--format", "jsonl")
    assert (failed.status, len(rows_of(failed.out))) == (1, COUNT)
    assert f"error: {tmp_path / 'empty.zip'}: the archive has no images\n" in failed.err


def test_an_empty_name_is_not_the_current_folder(run_cli, photos, monkeypatch):
    """It is what a shell makes of "$FOLDER" where nobody has set that."""
    monkeypatch.chdir(photos)
    failed = run_cli("predict", "")
    assert (failed.status, failed.out) == (1, "")
    assert failed.err == "error: the name of an image is empty; fix: leave it out, or . for the current folder\n"


def test_a_bad_image_is_one_line_whatever_its_name(run_cli, exports, tmp_path):
    (tmp_path / "two\nlines.png").write_bytes(b"junk")
    (tmp_path / "odd\n.txt").touch()
    failed = run_cli("predict", tmp_path, "--model", exports["fp32"].path)
    note, bad, total = failed.err.splitlines()
    assert note == f"note: {tmp_path}: left out: 1 .txt file(s) (odd\\n.txt)"
    assert bad == f"error: {tmp_path}/two\\nlines.png: not an image in a format that Pillow reads"
    assert total == "error: 1 of 1 images could not be read"


def test_shards_are_a_partition_that_does_not_depend_on_where_the_folder_lies(run_cli, photos, exports, tmp_path):
    model = ("--model", exports["fp32"].path, "--format", "jsonl")
    parts = [images_of(run_cli("predict", photos, "--shard", f"{i}/4", *model).out) for i in range(1, 5)]
    assert sorted(chain.from_iterable(parts)) == sorted(map(str, photos.rglob("*.png")))
    assert min(map(len, parts)) >= 2
    (tmp_path / "elsewhere").symlink_to(photos)
    moved = images_of(run_cli("predict", tmp_path / "elsewhere", "--shard", "2/4", *model).out)
    assert [name.split("elsewhere")[1] for name in moved] == [name.split("photos")[1] for name in parts[1]]
    for wrong in ("0/4", "5/4", "4", "a/b", "-1/2", "1/0"):
        with pytest.raises(ValueError, match="a shard is I/N"):
            Shard.parse(wrong)
    assert run_cli("predict", photos, "--shard", "5/4").status == 2


def test_a_resumed_run_adds_what_is_missing(run_cli, photos, exports, expected, tmp_path):
    results = tmp_path / "results.jsonl"
    arguments = ("predict", photos, "--model", exports["fp32"].path, "--resume", results)
    assert run_cli(*arguments).out == ""
    whole = results.read_text()
    assert {row["image"]: row["label"] for row in rows_of(whole)} == expected
    lines = whole.splitlines(keepends=True)
    results.write_text("".join(lines[:7]) + lines[7][:20])  # killed in the middle of a line
    assert "7 images were done already, 23 were added" in run_cli(*arguments).err
    assert sorted(results.read_text().splitlines()) == sorted(whole.splitlines())
    assert "30 images were done already, 0 were added" in run_cli(*arguments).err
    for content in (b"no JSON\n", b"[]\n", b'{"label": "cat"}\n', b"[" * 100_000 + b"\n"):
        results.write_bytes(content)
        failed = run_cli(*arguments)
        assert (failed.status, failed.err.count("\n")) == (1, 1)
        assert "holds no JSON lines" in failed.err
        assert results.read_bytes() == content
    assert run_cli(*arguments, "--output", tmp_path / "x").status == 2
    with pytest.raises(DataError, match="Is a directory"):
        read_done(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="it is a device or a pipe"):
        read_done(tmp_path / "pipe")


def test_a_killed_run_goes_on_where_it_was(photos, exports, expected, tmp_path):
    results = tmp_path / "results.jsonl"
    names = [str(path) for path in photos.rglob("*.png")] * 40
    (tmp_path / "list").write_text("\n".join(f"{name}" for name in names))
    command = [sys.executable, "-m", "edgeresnet", "predict", "--list", tmp_path / "list", "--model", exports["fp32"].path]
    with subprocess.Popen([*command, "--resume", results]) as process:
        until = time.monotonic() + 60
        while not (results.exists() and results.stat().st_size) and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    done = read_done(results)
    assert done
    subprocess.run([*command, "--resume", results], check=True, capture_output=True)
    assert {row["image"]: row["label"] for row in rows_of(results.read_text())} == expected


def test_results_may_lie_in_a_folder_that_is_not_there_yet(run_cli, photos, exports, tmp_path):
    results = tmp_path / "new" / "deep" / "results.jsonl"
    assert run_cli("predict", photos, "--model", exports["fp32"].path, "--resume", results).status == 0
    assert len(results.read_text().splitlines()) == COUNT


@pytest.mark.parametrize(("standard_input", "reason"), [("<&-", "is closed"), ("</dev/null", "not an image")])
def test_a_standard_input_that_has_no_image_is_one_line(exports, standard_input, reason):
    line = f'"$0" -m edgeresnet predict - --model "$1" {standard_input}'
    failed = subprocess.run(["sh", "-c", line, sys.executable, exports["fp32"].path], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    first, last = failed.stderr.splitlines()
    assert first.startswith("error: ")
    assert reason in first
    assert last == "error: 1 of 1 images could not be read"


def test_lines_come_while_the_run_goes_on(photos, exports):
    """The first answers are there before the last image is asked for."""
    names = [str(path) for path in sorted(photos.rglob("*.png"))] * 5
    asked = 0

    def images():
        nonlocal asked
        for name in names:
            asked += 1
            yield name

    with Classifier(exports["fp32"].path) as classifier:
        stream = classifier.predict_stream(images())
        first = next(stream)
        assert asked == 2 * STREAM_BATCH
        assert [first.label, *(prediction.label for prediction in stream)] == [classifier.predict(name).label for name in names]


def test_a_stream_keeps_order_and_passes_errors_on(exports):
    pixels = list(synthetic_images(32, 9))
    mixed = [*pixels[:4], b"junk", *pixels[4:], None]
    with Classifier(exports["int8"].path, threads=2) as classifier:
        outcomes = list(classifier.predict_stream(mixed, batch_size=3))
        assert [i for i, outcome in enumerate(outcomes) if isinstance(outcome, ImageError)] == [4, 10]
        good = np.stack([outcome.logits for outcome in outcomes if not isinstance(outcome, ImageError)])
        np.testing.assert_array_equal(good, classifier.logits(np.stack(pixels)))
        assert list(classifier.predict_stream([])) == []
        before = threading.active_count()
        abandoned = classifier.predict_stream(iter(pixels * 100), batch_size=2)
        next(abandoned)
        abandoned.close()
        assert threading.active_count() == before


def test_images_are_decoded_while_the_network_runs(exports, monkeypatch):
    """Both take 20 ms an image here: one after the other they would take 40."""
    with Classifier(exports["fp32"].path, threads=2) as classifier:
        pixels = synthetic_images(32, 1)[0]

        def decode(image):
            time.sleep(0.02)
            return pixels

        def run(batch):
            time.sleep(0.01 * len(batch))
            return np.zeros((len(batch), 10), np.float32)

        monkeypatch.setattr(classifier, "pixels", decode)
        monkeypatch.setattr(classifier, "logits", run)
        started = time.perf_counter()
        assert len(list(classifier.predict_stream(range(80), batch_size=8))) == 80
        # Two decoders take 0.8 s for all, the network takes 0.8 s: 1.6 one after the other.
        assert time.perf_counter() - started < 1.3


def test_memory_does_not_grow_with_the_number_of_images(exports):
    if not Path("/proc/self/statm").exists():
        pytest.skip("memory is read from Linux's /proc")

    def memory_mb():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)).save(stream, "PNG")
    content = stream.getvalue()
    with Classifier(exports["int8"].path, threads=2) as classifier:
        sizes = [memory_mb() for _ in classifier.predict_stream(bytes(bytearray(content)) for _ in range(600))]
    # All of them would be 160 MB.
    assert max(sizes) - sizes[150] < 20


def main() -> None:
    paths = sorted(path for path in Path(sys.argv[1]).rglob("*") if path.suffix in SUFFIXES)
    paths = paths[:: max(1, len(paths) // 1000)]
    with Classifier() as classifier:
        pixels = np.stack([classifier.pixels(path) for path in paths])
        for _ in range(5):
            started, used = time.perf_counter(), time.process_time()
            for start in range(0, len(pixels), STREAM_BATCH):
                classifier.logits(pixels[start : start + STREAM_BATCH])
            bare, bare_cpu = time.perf_counter() - started, time.process_time() - used
            started, used = time.perf_counter(), time.process_time()
            assert sum(1 for _ in classifier.predict_stream(paths)) == len(paths)
            streamed, streamed_cpu = time.perf_counter() - started, time.process_time() - used
            print(
                f"{len(paths) / streamed:.0f} images/s from files, {len(paths) / bare:.0f} of the bare model: "
                f"{bare / streamed:.0%} of its throughput, {streamed_cpu / bare_cpu:.2f} times its processor time"
            )


if __name__ == "__main__":
    main()

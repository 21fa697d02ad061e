"""One classifier in the hands of many threads, for long: equal answers, flat memory, an end that waits.

The short form is part of the tests; the long one is a command:

    python tests/edgeresnet/test_long_run.py --predictions 100000 --threads 4
"""

import argparse
import asyncio
import contextlib
import gc
import io
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeresnet import Classifier
from edgeresnet.classifier import bundled_model
from edgeresnet.evaluation import synthetic_images

IMAGES = 16


def encoded_images() -> list[bytes]:
    """Pictures of several forms and sizes, so that decoders run too."""
    contents = []
    for i, pixels in enumerate(synthetic_images(48, IMAGES, seed=5)):
        stream = io.BytesIO()
        Image.fromarray(pixels).resize((32 + 4 * i, 48)).save(stream, ("PNG", "JPEG", "WEBP", "GIF")[i % 4])
        contents.append(stream.getvalue())
    return contents


def memory_mb() -> float:
    """Resident memory of this process."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        pytest.skip("memory is read from Linux's /proc")
    return pages * resource.getpagesize() / 2**20


def run_long(classifier: Classifier, predictions: int, threads: int) -> float:
    """Classify in threads, and compare every answer with the first to the same image, bit by bit.

    Returns:
        MB by which memory grew from a tenth of the way on, at most.
    """
    contents = encoded_images()
    first = [classifier.predict(content).logits.tobytes() for content in contents]
    sizes: list[float] = []

    def work(worker: int) -> None:
        for i in range(predictions // threads):
            number = (i + worker) % IMAGES
            assert classifier.predict(contents[number]).logits.tobytes() == first[number]
            if worker == 0 and i % 50 == 0:
                sizes.append(memory_mb())

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    gc.collect()
    sizes.append(memory_mb())
    settled = sizes[len(sizes) // 10 :]
    return max(settled) - settled[0]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_many_threads_get_the_first_answers_bit_by_bit_in_flat_memory(exports, precision):
    with Classifier(exports[precision].path, threads=2) as classifier:
        assert run_long(classifier, predictions=600, threads=4) < 20


def test_batches_in_many_threads_get_the_first_answers_bit_by_bit(exports):
    pixels = synthetic_images(32, 12)
    with Classifier(exports["int8"].path, threads=2) as classifier:
        expected = classifier.logits(pixels)
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(classifier.logits, [pixels] * 24):
                np.testing.assert_array_equal(found, expected)


def test_many_classifiers_live_in_one_process(exports):
    pixels = synthetic_images(32, 4)
    classifiers = [Classifier(exports[precision].path, threads=2) for precision in ("fp32", "int8", "int8-static") for _ in range(3)]
    answers = [classifier.logits(pixels) for classifier in classifiers]
    for i in range(0, 9, 3):
        np.testing.assert_array_equal(answers[i], answers[i + 1])
    classifiers[0].close()
    np.testing.assert_array_equal(classifiers[1].logits(pixels), answers[1])
    for classifier in classifiers:
        classifier.close()


def test_opening_and_closing_leaves_nothing_behind(exports):
    pixels = synthetic_images(32, 2)

    def once():
        with Classifier(exports["int8"].path, threads=2) as classifier:
            classifier.logits(pixels)

    for _ in range(5):
        once()
    before, threads = memory_mb(), threading.active_count()
    for _ in range(25):
        once()
    assert memory_mb() - before < 20
    assert threading.active_count() == threads


@pytest.mark.parametrize("images", [1, 6])
def test_closing_waits_for_calls_at_hand_and_refuses_later_ones(exports, images):
    """Again and again: the moment between the question whether it is open and the run is short."""
    pixels = synthetic_images(32, images)
    for attempt in range(4):
        classifier = Classifier(exports["int8"].path, threads=2)
        expected = classifier.logits(pixels)
        started = threading.Barrier(5)
        answers, refusals = [], []

        def call(classifier=classifier, started=started, answers=answers, refusals=refusals):
            started.wait()
            try:
                while True:
                    answers.append(classifier.logits(pixels))
            except ValueError as error:
                refusals.append(str(error))

        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        started.wait()
        time.sleep(0.005 * attempt)
        classifier.close()
        classifier.close()
        for caller in callers:
            caller.join(timeout=60)
            assert not caller.is_alive()
        assert refusals == ["the classifier is closed"] * 4
        assert all(np.array_equal(answer, expected) for answer in answers)


def test_asyncio_uses_it_through_threads(exports):
    contents = encoded_images()

    async def classify_all(classifier):
        return await asyncio.gather(*(asyncio.to_thread(classifier.predict, content) for content in contents))

    with Classifier(exports["int8"].path) as classifier:
        together = asyncio.run(classify_all(classifier))
        for prediction, content in zip(together, contents, strict=True):
            np.testing.assert_array_equal(prediction.logits, classifier.predict(content).logits)


@pytest.mark.parametrize("end", ["close", "forget", "garbage"])
def test_a_child_of_a_fork_may_drop_what_it_inherited(exports, end):
    """Freeing a session waits for its threads, and a child has none: it would hang for ever."""
    if not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    classifier = Classifier(exports["int8"].path, threads=2)
    classifier.logits(synthetic_images(32, 3))
    holder = [classifier]
    del classifier

    def in_child():
        if end == "close":
            holder[0].close()
        elif end == "garbage":
            holder[0].session._session = None
        holder.clear()
        gc.collect()

    child = multiprocessing.get_context("fork").Process(target=in_child)
    child.start()
    child.join(timeout=20)
    hangs = child.is_alive()
    child.kill()
    assert not hangs
    assert child.exitcode == 0
    assert holder[0].logits(synthetic_images(32, 3)).shape == (3, 10)


FORKED = """
import os, sys
import numpy as np
from edgeresnet import Classifier
classifier = Classifier(sys.argv[1], threads=2)
classifier.logits(np.zeros((4, 32, 32, 3), np.uint8))
child = os.fork()
if child == 0:
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_child_of_a_fork_ends_at_its_exit(exports):
    """As the workers of many servers do; ONNX Runtime's reporter waited there for a thread that stayed behind."""
    if not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    command = [sys.executable, "-W", "ignore", "-c", FORKED, exports["int8"].path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            out, _ = process.communicate(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert out == "7\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--model", type=Path, default=bundled_model())
    arguments = parser.parse_args()
    started = time.perf_counter()
    with Classifier(arguments.model) as classifier:
        grown_mb = run_long(classifier, arguments.predictions, arguments.threads)
    print(
        f"{arguments.predictions:,} predictions from {arguments.threads} threads, each bit-equal to the first answer to its image, "
        f"in {time.perf_counter() - started:.0f} s; memory grew by {grown_mb:.1f} MB at most"
    )


if __name__ == "__main__":
    main()

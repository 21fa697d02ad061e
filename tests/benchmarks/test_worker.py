"""Jobs are done in another process, whatever becomes of it."""

import os
import signal
import time
from pathlib import Path

import pytest

from benchmarks.jobs import KeepImages, Open
from benchmarks.subjects import OnnxSubject
from benchmarks.worker import Worker
from edgeresnet.errors import BenchmarkError
from edgeresnet.evaluation import synthetic_images
from edgeresnet.target import Target


@pytest.fixture(scope="module")
def worker():
    with Worker() as worker:
        yield worker


def test_a_model_is_loaded_in_another_process(worker, exports):
    worker.do(KeepImages(synthetic_images(32, 2)))
    opened = worker.do(Open(OnnxSubject.of(exports["int8"].path, Target(threads=1))))
    assert opened.execution.provider == "CPUExecutionProvider"
    assert opened.load_ms > 0


def test_a_refusal_keeps_its_words_and_the_process(worker, exports):
    gone = OnnxSubject.of(exports["fp32"].path, Target(provider="cuda"))
    with pytest.raises(BenchmarkError, match="provider 'cuda' was asked for"):
        worker.do(Open(gone))
    assert worker.do(Open(OnnxSubject.of(exports["fp32"].path, Target(threads=1)))).load_ms > 0


def test_a_bug_arrives_with_its_traceback(worker):
    with pytest.raises(RuntimeError, match=r"(?s)Traceback .*AttributeError"):
        worker.do(Open(None))


def test_a_process_that_is_killed_is_an_error_that_says_so(exports):
    with Worker() as worker:
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(BenchmarkError, match=r"its process ended before it answered \(killed: out of memory\?\)"):
            worker.do(Open(OnnxSubject.of(exports["fp32"].path, Target(threads=1))))


def test_ctrl_c_does_not_reach_it_and_closing_ends_it(exports):
    with Worker() as worker:
        worker.do(KeepImages(synthetic_images(32, 1)))
        os.kill(worker._process.pid, signal.SIGINT)
        time.sleep(0.2)
        worker.do(KeepImages(synthetic_images(32, 1)))
        pid = worker._process.pid
    assert not Path(f"/proc/{pid}").exists()


def test_what_libraries_print_does_not_come_between(tmp_path, exports, monkeypatch):
    """A module that prints when it is imported, in the other process too, where the search path is the same."""
    (tmp_path / "chatty.py").write_text(
        "import os\nprint('hello', flush=True)\nos.write(1, b'world')\nclass Job:\n    def run(self, kept):\n        return 42\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import chatty

    with Worker() as worker:
        assert worker.do(chatty.Job()) == 42

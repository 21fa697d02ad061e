import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import benchmarks
import edgeresnet
from benchmarks.studies.peers import contest
from benchmarks.studies.peers.__main__ import command
from benchmarks.studies.peers.contest import Settings, compete
from benchmarks.studies.peers.conversion import convert
from benchmarks.studies.peers.environments import Workshop, make_environment
from benchmarks.studies.peers.materials import Materials
from benchmarks.studies.peers.processes import PeerError
from benchmarks.studies.peers.record import PeerResult, summarize, tabulate
from benchmarks.studies.peers.roster import ENVIRONMENTS, ORIGINAL, OUR_INT8, OURS, PEERS, Environment, Peer
from benchmarks.studies.peers.rounds import Visits, time_in_turns
from edgeresnet.evaluation import Parity, compare_logits, synthetic_images
from edgeresnet.progress import silent
from edgeresnet.session import Session
from edgeresnet.training.weights import load_weights

# A runtime that answers with means of channels, and fails in the way that its form names.
ASTRAY = """
import os, signal, time
from pathlib import Path

def convert(form, materials):
    with (materials.folder.parent / "conversions.txt").open("a") as log:
        log.write(form + "\\n")
    if form == "unwilling":
        raise ValueError("no such form\\nand much more")
    target = materials.folder / "file.bin"
    if form != "forgetful":
        target.write_bytes(b"x" * 1000)
    return [target]

def load(form, path, threads):
    print("this must not come between the answers")
    if form == "slow":
        time.sleep(60)
    calls = []
    def run(image):
        calls.append(image)
        if form == "dying" and len(calls) > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if form == "counting":
            return [threads, len(os.sched_getaffinity(0)), image[0, 0, 0, 0]]
        if form == "lost":
            return image.mean((1, 2, 3)).repeat(10) * float("nan")
        if form == "tiring" and len(calls) > 12:
            raise RuntimeError("")
        time.sleep(0.001)
        return image.mean((1, 2, 3)).repeat(10)
    return run
"""


def peer(form, runtime="astray", name=None):
    return Peer(name=name or f"{runtime} {form}", runtime=runtime, form=form, environment=OURS, converter=OURS)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Our packages, and one runtime more."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "edgeresnet").symlink_to(Path(edgeresnet.__file__).parent)
    shutil.copytree(Path(benchmarks.__file__).parent, folder / "benchmarks", ignore=shutil.ignore_patterns("records", "__pycache__"))
    (folder / "benchmarks/studies/peers/runtimes/astray.py").write_text(ASTRAY)
    return folder


@pytest.fixture
def workshop(packages, tmp_path):
    return Workshop(cache=tmp_path, packages=packages, threads=1)


@pytest.fixture
def astray_is_known(packages, tmp_path, monkeypatch):
    """Runs take the packages above; the runtimes' sources are looked up there too."""

    @contextmanager
    def theirs():
        yield packages

    monkeypatch.setattr("benchmarks.studies.peers.contest.own_packages", theirs)
    monkeypatch.setattr("benchmarks.studies.peers.conversion.RUNTIMES", packages / "benchmarks/studies/peers/runtimes")


@pytest.mark.usefixtures("astray_is_known")
def test_a_run_measures_who_works_and_names_why_others_do_not(weights, exports, tmp_path, monkeypatch):
    folder = exports["fp32"].path.parent
    monkeypatch.setattr(contest, "export_ours", lambda *arguments: folder)
    peers = [
        peer("eager", "pytorch", ORIGINAL),
        peer("int8", OURS, OUR_INT8),
        peer("dynamic", "onnxruntime"),
        *(peer(form) for form in ("plain", "counting", "lost", "unwilling", "forgetful", "dying", "tiring")),
        peer("fp32", "litert"),
    ]
    settings = Settings(cache=tmp_path, data=None, limit=10, threads=1, rounds=3, seconds=0.02, weights=weights)
    record = json.loads(json.dumps(compete(peers, settings, silent), allow_nan=False))
    found = {row["name"]: row for row in record["peers"]}
    assert list(found) == [each.name for each in peers]
    failures = {name: row["failure"] for name, row in found.items() if row["failure"]}
    assert failures == {
        "astray counting": "its answers have the shape (10, 3), not (10, 10)",
        "astray lost": "its answers are not all numbers",
        "astray unwilling": "ValueError: no such form",
        "astray forgetful": f"its tools made no {tmp_path / 'files' / 'astray-forgetful' / 'file.bin'}",
        "astray dying": "its process ended by SIGKILL: this must not come between the answers",
        "astray tiring": "RuntimeError",
        "litert fp32": "ModuleNotFoundError: No module named 'litert_torch'",
    }
    images = synthetic_images(32, 10)
    expected = load_weights(weights).logits(images)
    assert found[ORIGINAL]["sqnr_db"] > 100
    ours = compare_logits(expected, np.concatenate([Session(exports["int8"].path).logits(image[None]) for image in images]))
    assert (found[OUR_INT8]["sqnr_db"], found[OUR_INT8]["agreement"]) == pytest.approx((ours.sqnr_db, ours.agreement), rel=1e-3)
    assert found[OUR_INT8]["size_bytes"] == exports["int8"].path.stat().st_size
    assert found["onnxruntime dynamic"]["sqnr_db"] > 15
    assert found["onnxruntime dynamic"]["size_bytes"] < 0.3 * exports["fp32"].path.stat().st_size
    for name in (ORIGINAL, OUR_INT8, "onnxruntime dynamic"):
        rounds = found[name]["rounds_ms"]
        assert len(rounds) == 3
        left_out = found[name]["disturbed"] if found[name]["doubt"] is None else {}
        believed = [call for number, calls in enumerate(rounds) for call in calls if str(number) not in left_out]
        assert found[name]["p50_ms"]["value"] == pytest.approx(statistics.median(believed), abs=1e-3)
        if not found[name]["disturbed"] and not found[ORIGINAL]["disturbed"]:
            ratio = found[ORIGINAL]["p50_ms"]["value"] / found[name]["p50_ms"]["value"]
            assert found[name]["speedup_vs_pytorch"]["value"] == pytest.approx(ratio)
    assert found[ORIGINAL]["versions"].keys() == {"edgeresnet", "onnxruntime"}
    assert (record["data"], record["images"], record["threads"], record["rounds"]) == ("synthetic images", 10, 1, 3)


@pytest.mark.usefixtures("astray_is_known")
def test_files_are_made_once_for_the_same_materials_and_tools(workshop, exports, tmp_path, packages, monkeypatch):
    np.save(tmp_path / "calibration.npy", synthetic_images(32, 2))
    (tmp_path / "weights").write_bytes(b"weights")
    (tmp_path / "resnet18-fp32.onnx").write_bytes(b"model")
    materials = Materials(
        weights=tmp_path / "weights", exports=tmp_path, calibration=tmp_path / "calibration.npy", folder=tmp_path / "files"
    )
    made = tmp_path / "files" / "conversions.txt"
    for _ in range(2):
        (file,) = convert(peer("plain"), materials, workshop)
        assert (file.read_bytes(), made.read_text().split()) == (b"x" * 1000, ["plain"])
    np.save(tmp_path / "calibration.npy", synthetic_images(32, 3))
    convert(peer("plain"), materials, workshop)
    assert made.read_text().split() == 2 * ["plain"]
    other = packages / "benchmarks/studies/peers/runtimes/astray.py"
    other.write_text(ASTRAY + "# another recipe\n")
    convert(peer("plain"), materials, workshop)
    assert made.read_text().split() == 3 * ["plain"]
    with pytest.raises(PeerError, match="no such form"):
        convert(peer("unwilling"), materials, workshop)
    with pytest.raises(PeerError, match="no such form"):  # a failure is not kept
        convert(peer("unwilling"), materials, workshop)


@pytest.fixture
def load(workshop, tmp_path):
    """Starts a worker and has it load a form."""
    np.save(tmp_path / "images.npy", synthetic_images(32, 3))
    (tmp_path / "file.bin").touch()

    def start(form, threads=1, timeout_s=60):
        worker = replace(workshop, threads=threads).start(OURS, f"run-{form}")
        arguments = {"runtime": "astray", "form": form, "path": str(tmp_path / "file.bin"), "images": str(tmp_path / "images.npy")}
        try:
            worker.ask("load", timeout_s=timeout_s, versions=["numpy"], **arguments)
        except PeerError:
            worker.close()
            raise
        return worker

    return start


def test_a_worker_has_as_many_cores_as_threads_and_answers_every_image(load, tmp_path):
    for threads in (1, 2):
        with load("counting", threads) as worker:
            worker.ask("answer", timeout_s=60, target=str(tmp_path / "answers.npy"))
        cores = min(threads, len(os.sched_getaffinity(0)))
        expected = [[threads, cores, image[0, 0, 0]] for image in synthetic_images(32, 3)]
        np.testing.assert_array_equal(np.load(tmp_path / "answers.npy"), np.float32(expected))


def test_a_worker_stands_still_between_requests_and_times_what_it_was_asked_for(load):
    with load("plain") as worker:
        times = worker.ask("time", timeout_s=60, warmup_s=0.01, seconds=0.1)["calls_ms"]
        assert 3 <= len(times) <= 100
        assert min(times) >= 1
        status = Path(f"/proc/{worker._process.pid}/status")
        deadline = time.monotonic() + 20
        while "State:\tT (stopped)" not in status.read_text():
            assert time.monotonic() < deadline


def test_a_worker_that_does_not_answer_in_time_is_given_up(load):
    with pytest.raises(PeerError, match="did not load within 4 s"):
        load("slow", timeout_s=4)


def test_an_environment_is_made_once_and_says_what_pip_said(tmp_path):
    environment = Environment(name="small", requirements=("pip",), versions=())
    make_environment(environment, tmp_path)
    python = tmp_path / "environments" / "small" / "bin" / "python"
    prefix = subprocess.run([python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True).stdout.strip()
    assert Path(prefix) == tmp_path / "environments" / "small"
    before = python.parent.stat().st_mtime_ns
    make_environment(environment, tmp_path)
    assert python.parent.stat().st_mtime_ns == before
    missing = replace(environment, requirements=(str(tmp_path / "no.whl"),))
    for _ in range(2):  # the second call tries again
        with pytest.raises(PeerError, match=r"pip cannot install .*no\.whl: ERROR: "):
            make_environment(missing, tmp_path)


@pytest.mark.usefixtures("astray_is_known")
def test_peers_whose_environment_cannot_be_made_are_rows(weights, exports, tmp_path, monkeypatch):
    folder = exports["fp32"].path.parent
    monkeypatch.setattr(contest, "export_ours", lambda *arguments: folder)

    def refuse(environment, cache):
        raise PeerError(f"pip cannot install {environment.name}")

    monkeypatch.setattr(contest, "make_environment", refuse)
    peers = [each for each in PEERS if each.runtime in {"ncnn", "pytorch"}]
    record = compete(peers, Settings(cache=tmp_path, data=None, limit=4, threads=1, rounds=3, seconds=0, weights=weights), silent)
    assert {row["failure"] for row in record["peers"]} == {"pip cannot install pytorch", "pip cannot install ncnn"}
    assert tabulate(record).splitlines()[2] == "| PyTorch | failed: pip cannot install pytorch | | | | | |"


PARITY = Parity(count=100, largest_difference=0.5, sqnr_db=41.26, agreement=0.995)


def visits_of(*milliseconds, doubts=None):
    return Visits(rounds={number: [value, value] for number, value in enumerate(milliseconds)}, doubts=doubts or {})


def tabulated(*results):
    return tabulate({"peers": [asdict(result) for result in results]}).splitlines()[2:]


def test_the_table_has_each_figure_with_its_interval():
    visits = {ORIGINAL: visits_of(10.0, 12.0, 14.0), "fast": visits_of(5.0, 6.0, 7.0)}
    fast = summarize(peer("x", name="fast"), {}, 11_240_000, PARITY, visits)
    assert tabulated(fast, PeerResult(name="broken", versions={}, failure="a | b")) == [
        "| fast | 11.2 | 6.00 (5.00 to 7.00) | 2.00x (2.00 to 2.00) | - | 41.3 dB | 99.5% |",
        "| broken | failed: a \\| b | | | | | |",
    ]
    assert fast.rounds_ms == [[5.0, 5.0], [6.0, 6.0], [7.0, 7.0]]


def test_disturbed_rounds_do_not_count_and_too_many_of_them_leave_no_ratio():
    """A peer that was slowed down in two of five rounds is as fast as in the others; one that was in three is not compared."""
    busy = "other processes kept 1.0 cores busy"
    visits = {
        ORIGINAL: visits_of(10.0, 10.0, 10.0, 10.0, 10.0),
        "twice": visits_of(5.0, 50.0, 5.0, 50.0, 5.0, doubts={1: busy, 3: busy}),
        "often": visits_of(5.0, 50.0, 50.0, 50.0, 5.0, doubts={1: busy, 2: busy, 3: busy}),
    }
    twice, often = (summarize(peer("x", name=name), {}, 1_000_000, PARITY, visits) for name in ("twice", "often"))
    assert (twice.doubt, often.doubt) == (None, f"disturbed in 3 of 5 rounds, such as: {busy}")
    assert tabulated(twice, often) == [
        "| twice | 1.0 | 5.00 (5.00 to 5.00) | 2.00x (2.00 to 2.00) | - | 41.3 dB | 99.5% |",
        "| often | 1.0 | 50.00 (5.00 to 50.00), doubtful | - | - | 41.3 dB | 99.5% |",
    ]
    visits[ORIGINAL] = visits_of(10.0, 50.0, 50.0, 50.0, 50.0, doubts=dict.fromkeys(range(1, 5), busy))
    assert summarize(peer("x", name="twice"), {}, 1_000_000, PARITY, visits).speedup_vs_pytorch is None


class Disturbed:
    """A worker whose visits are disturbed as often as it was told."""

    def __init__(self, times):
        self.left, self.asked = times, 0

    def ask(self, do, **arguments):
        self.asked += 1
        self.left -= 1
        return {"calls_ms": [float(self.asked)], "doubt": "busy" if self.left >= 0 else None}


def test_a_disturbed_visit_is_made_once_more():
    workers = {"quiet": Disturbed(0), "once": Disturbed(1), "always": Disturbed(100)}
    visits = time_in_turns(workers, 3, 0.1, {}, silent)
    assert [worker.asked for worker in workers.values()] == [3, 4, 6]
    assert visits["once"].rounds == {0: [2.0], 1: [3.0], 2: [4.0]}
    assert [visits[name].doubts for name in workers] == [{}, {}, dict.fromkeys(range(3), "busy")]


def test_every_peer_has_a_runtime_and_an_environment_with_fixed_versions():
    runtimes = Path(benchmarks.__file__).parent / "studies" / "peers" / "runtimes"
    assert len({each.name for each in PEERS}) == len({each.key for each in PEERS}) == len(PEERS)
    for each in PEERS:
        assert (runtimes / f"{each.runtime}.py").is_file()
        assert {each.environment, each.converter} <= {OURS, *ENVIRONMENTS}
    for environment in ENVIRONMENTS.values():
        assert all("==" in requirement for requirement in environment.requirements)
        assert set(environment.versions) <= {requirement.split("==")[0] for requirement in environment.requirements} | {"torchao"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--peer", "nobody"), "'nobody' is not one of"),
        (("--rounds", "2"), "2 is not in the range x>=3"),
        (("--data", "missing"), "Path 'missing' does not exist"),
    ],
)
def test_senseless_calls_are_refused(arguments, message):
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_data_that_cannot_be_read_is_one_line(tmp_path):
    result = CliRunner().invoke(command, ["--data", str(tmp_path), "--cache", str(tmp_path / "cache")])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.skipif("EDGERESNET_PEERS" not in os.environ, reason="EDGERESNET_PEERS names no cache with the peers' environments")
def test_all_peers_work(tmp_path):
    """Long: it installs whatever the cache does not have."""
    record = tmp_path / "peers.json"
    words = ["--cache", os.environ["EDGERESNET_PEERS"], "--limit", "20", "--rounds", "3", "--seconds", "0.05", "--record", str(record)]
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.studies.peers", *words], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(record.read_text())
    assert {row["name"]: row["failure"] for row in found["peers"]} == {each.name: None for each in PEERS}
    assert all(row["sqnr_db"] > 20 and row["agreement"] > 0.9 for row in found["peers"])
    assert result.stdout == tabulate(found)

"""Files appear whole or not at all: what a reader has open stays whole, and what cannot be written leaves nothing."""

import os
import resource
import shutil
from contextlib import contextmanager

import pytest

from edgeresnet.files import replacing, write_text
from edgeresnet.modelfile import read_model_file
from edgeresnet.profile import Profile
from edgeresnet.target import Target
from edgeresnet.training.weights import load_weights, save_weights
from exporters.export import export_models


@contextmanager
def files_up_to(size_bytes):
    """The system refuses larger files, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_block_that_succeeds_puts_its_file_in_place(tmp_path):
    target = tmp_path / "new" / "deep" / "file.txt"
    with replacing(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".txt"
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")

    def fail_halfway():
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail_halfway()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "file.txt").write_text("old")
    for name, leads_to in (("link.txt", "file.txt"), ("dangling.txt", "new/deep.txt")):
        (tmp_path / name).symlink_to(leads_to)
        write_text(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / leads_to).read_text() == "new"
    assert {path.name for path in tmp_path.rglob("*")} == {"file.txt", "link.txt", "dangling.txt", "new", "deep.txt"}


def test_what_is_no_file_does_not_become_one(tmp_path):
    """As root /dev/null would."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OSError, match="is a device or a pipe") as refused:
            write_text(tmp_path / name, "new")
        assert refused.value.filename == str(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
    assert len(list(tmp_path.iterdir())) == 2


def save_text(path):
    write_text(path, "ä" * 5000)


@pytest.fixture
def writers(exports, weights):
    """What writes files that others read, each with more than the limit below."""
    fp32 = exports["fp32"].path
    network = load_weights(weights)

    def write_profile(path):
        model = path.parent / ("deep/" * 60) / "model.onnx"  # a long name makes a long profile
        model.parent.mkdir(parents=True, exist_ok=True)
        if not model.exists():
            os.link(fp32, model)
        sha256 = read_model_file(fp32).sha256
        profile = Profile(model=model, model_sha256=sha256, target=Target(), cpu="Abacus", images_per_call=1, p50_ms=1.0)
        profile.write(path)

    return {
        "text": save_text,
        "profile": write_profile,
        "weights": lambda path: save_weights(path, network.model.network.state_dict(), network.spec),
    }


@pytest.mark.parametrize("kind", ["text", "profile", "weights"])
def test_a_file_is_replaced_whole_or_stays(writers, tmp_path, kind):
    target = tmp_path / "target"
    target.write_text("old")
    os.link(target, tmp_path / "as a reader has it open")
    with files_up_to(100), pytest.raises(Exception, match="File too large"):
        writers[kind](target)
    assert target.read_text() == "old"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    writers[kind](target)
    assert target.stat().st_size > 100
    assert (tmp_path / "as a reader has it open").read_text() == "old"


@pytest.mark.usefixtures("exported_before")
def test_several_exported_files_appear_together_or_not_at_all(exports, weights, tmp_path):
    """INT8 fits below the limit and FP32 does not."""
    shutil.copy(exports["fp32"].path, tmp_path / "resnet18-int8.onnx")
    before = (tmp_path / "resnet18-int8.onnx").read_bytes()
    with files_up_to(20_000_000), pytest.raises(OSError, match="too large"):
        export_models(weights, ("int8", "fp32"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["resnet18-int8.onnx"]
    assert (tmp_path / "resnet18-int8.onnx").read_bytes() == before

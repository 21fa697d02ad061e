import shutil

import pytest
import torch
from torch import nn

from edgeresnet.errors import CompilerError, ProviderError
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.model import build_resnet18
from edgeresnet.training.run import run_training
from edgeresnet.training.winograd import WinogradConv2d, compile_winograd, use_winograd

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="there is no C++ compiler")


@pytest.fixture(autouse=True)
def smallest_inputs_too(monkeypatch):
    """Have the algorithm compute what it would leave to PyTorch for being small."""
    monkeypatch.setattr("edgeresnet.training.winograd.LEAST_VALUES", 0)


@pytest.fixture
def compiler_missing(monkeypatch):
    """As on a machine without a compiler."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    compile_winograd.cache_clear()
    yield
    compile_winograd.cache_clear()


def differentiate(convolution, images, gradient):
    """Outputs, gradient of the images and gradient of the weight."""
    convolution.weight.grad = None
    images = images.clone().requires_grad_()
    outputs = convolution(images)
    outputs.backward(gradient)
    return outputs.detach(), images.grad, convolution.weight.grad


def build_case(count, channels, to, height, width):
    torch.manual_seed(0)
    convolution = nn.Conv2d(channels, to, 3, padding=1, bias=False)
    return convolution, torch.randn(count, channels, height, width), torch.randn(count, to, height, width)


# One tile, tiles that reach over the edge, several blocks of tiles in each of the algorithm's loops, and other channels out than in.
@needs_compiler
@pytest.mark.parametrize(
    "shape", [(1, 16, 16, 4, 4), (1, 16, 16, 1, 1), (2, 32, 48, 9, 5), (5, 64, 64, 32, 32), (40, 256, 144, 6, 7), (3, 512, 512, 4, 4)]
)
def test_results_and_gradients_are_those_of_pytorch_in_double_precision(shape):
    convolution, images, gradient = build_case(*shape)
    measured = differentiate(WinogradConv2d(convolution), images, gradient)
    wanted = differentiate(convolution.double(), images.double(), gradient.double())
    for one, other in zip(measured, wanted, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() < 2e-5 * other.abs().max()


@needs_compiler
def test_the_number_of_threads_does_not_change_a_bit():
    convolution, images, gradient = build_case(7, 64, 32, 10, 10)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(differentiate(WinogradConv2d(convolution), images, gradient))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))


@needs_compiler
def test_only_convolutions_that_fit_are_replaced_and_keep_their_parameters():
    network = build_resnet18(10)
    parameters = dict(network.named_parameters())
    assert use_winograd(network) == 13
    assert dict(network.named_parameters()) == parameters
    left = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert {(module.kernel_size, module.stride, module.in_channels == 3) for module in left} == {
        ((3, 3), (1, 1), True),
        ((3, 3), (2, 2), False),
        ((1, 1), (2, 2), False),
    }
    others = nn.Sequential(
        nn.Conv2d(16, 16, 3, padding=1),
        nn.Conv2d(16, 16, 3, bias=False),
        nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
        nn.Conv2d(16, 24, 3, padding=1, bias=False),
        nn.Conv2d(16, 16, 3, padding=1, bias=False, padding_mode="reflect"),
        nn.Conv2d(16, 16, 3, padding=2, dilation=2, bias=False),
    )
    assert use_winograd(others) == 0


@needs_compiler
def test_other_arithmetic_than_float32_on_the_cpu_is_refused():
    layer = WinogradConv2d(nn.Conv2d(16, 16, 3, padding=1, bias=False))
    with pytest.raises(ValueError, match=r"not torch\.bfloat16 on cpu"):
        layer(torch.zeros(1, 16, 4, 4, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="on meta"):
        layer(torch.zeros(1, 16, 4, 4, device="meta"))


def test_small_inputs_are_left_to_pytorch(monkeypatch):
    monkeypatch.setattr("edgeresnet.training.winograd.LEAST_VALUES", 2 * 16 * 4 * 4 + 1)
    convolution, images, _ = build_case(2, 16, 16, 4, 4)
    assert torch.equal(WinogradConv2d(convolution)(images), convolution(images))


@pytest.mark.usefixtures("compiler_missing")
def test_without_a_compiler_the_network_stays_as_it_was():
    network = build_resnet18(2)
    with pytest.raises(CompilerError, match=r"no C\+\+ compiler \(no-such-compiler\)"):
        use_winograd(network)
    assert not any(isinstance(module, WinogradConv2d) for module in network.modules())


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path):
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'winograd.cpp: error: no such standard' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    compile_winograd.cache_clear()
    with pytest.raises(CompilerError, match="no such standard"):
        compile_winograd()


CONFIG = TrainingConfig(epochs=1, batch_size=8, image_size=8, crop_padding=0, validation_fraction=0.2)


@needs_compiler
def test_a_run_learns_the_same_with_and_without(image_folder, tmp_path):
    lines = []
    for name, winograd in (("with", None), ("without", False)):
        run_training(CONFIG, image_folder, tmp_path / name, device=CPU, winograd=winograd, report=lines.append)
    assert lines.count("13 convolutions by Winograd's algorithm") == 1
    losses = [float((tmp_path / name / "log.csv").read_text().splitlines()[1].split(",")[3]) for name in ("with", "without")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.usefixtures("compiler_missing")
def test_a_run_goes_on_without_a_compiler_unless_it_was_asked_for(image_folder, tmp_path):
    with pytest.raises(CompilerError):
        run_training(CONFIG, image_folder, tmp_path / "asked", device=CPU, winograd=True)
    lines = []
    assert run_training(CONFIG, image_folder, tmp_path / "run", device=CPU, report=lines.append).finished
    assert any("no-such-compiler" in line and "slower" in line for line in lines)


def test_a_run_in_bfloat16_cannot_take_it(image_folder, tmp_path):
    config = TrainingConfig(epochs=1, batch_size=8, image_size=8, crop_padding=0, validation_fraction=0.2, amp=True)
    with pytest.raises(ProviderError, match="float32 on the CPU, not bfloat16"):
        run_training(config, image_folder, tmp_path / "run", device=CPU, winograd=True)

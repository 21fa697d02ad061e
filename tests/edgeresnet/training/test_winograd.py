import dataclasses
import platform
import shutil

import pytest
import torch
from torch import nn

from edgeresnet.errors import CompilerError, ProviderError
from edgeresnet.training import winograd
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.model import build_resnet18
from edgeresnet.training.run import run_training
from edgeresnet.training.winograd import WinogradConv2d, compile_winograd, use_winograd

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="there is no C++ compiler")
needs_bfloat16 = pytest.mark.skipif(
    not torch.cpu.get_capabilities().get("avx512_bf16"), reason="the processor has no AVX512-BF16 to multiply bfloat16 with"
)


@pytest.fixture(autouse=True)
def smallest_inputs_too(monkeypatch):
    """Have the algorithm compute what it would leave to PyTorch for being small."""
    monkeypatch.setattr("edgeresnet.training.winograd.LEAST_VALUES", 0)
    monkeypatch.setattr("edgeresnet.training.winograd.LEAST_FILLED", 0)


@pytest.fixture
def compiled_anew():
    """Have the library compiled for this test, and again for those after it."""
    for cached in (compile_winograd, winograd._find_functions):
        cached.cache_clear()
    yield
    for cached in (compile_winograd, winograd._find_functions):
        cached.cache_clear()


@pytest.fixture
def compiler_missing(compiled_anew, monkeypatch):
    """As on a machine without a compiler."""
    monkeypatch.setenv("CXX", "no-such-compiler")


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
SHAPES = [(1, 16, 16, 4, 4), (1, 16, 16, 1, 1), (2, 32, 48, 9, 5), (5, 64, 64, 32, 32), (40, 256, 144, 6, 7), (3, 512, 512, 4, 4)]


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES)
def test_results_and_gradients_are_those_of_pytorch_in_double_precision(shape):
    convolution, images, gradient = build_case(*shape)
    measured = differentiate(WinogradConv2d(convolution), images, gradient)
    wanted = differentiate(convolution.double(), images.double(), gradient.double())
    for one, other in zip(measured, wanted, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() < 2e-5 * other.abs().max()


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX2 is an instruction set of x86-64")
def test_the_path_of_avx2_computes_the_same_on_newer_processors(compiled_anew, monkeypatch):
    """Vectors of 8 and other blocks of products, which are left out where there is AVX-512."""
    flags = tuple("-march=x86-64-v3" if flag == "-march=native" else flag for flag in winograd.FLAGS)
    assert flags != winograd.FLAGS
    monkeypatch.setattr(winograd, "FLAGS", flags)
    for shape in SHAPES:
        test_results_and_gradients_are_those_of_pytorch_in_double_precision(shape)


# Rounding the transforms to bfloat16 is the whole error; rounding the results alone would be 0.0017.
@needs_compiler
@needs_bfloat16
@pytest.mark.parametrize("shape", SHAPES)
def test_results_in_bfloat16_deviate_by_about_a_hundredth(shape):
    convolution, images, gradient = build_case(*shape)
    images, gradient = images.bfloat16(), gradient.bfloat16()
    outputs, of_images, of_weight = differentiate(WinogradConv2d(convolution), images, gradient)
    assert outputs.dtype == of_images.dtype == torch.bfloat16
    assert of_weight.dtype == torch.float32
    wanted = differentiate(convolution.double(), images.double(), gradient.double())
    for one, other in zip((outputs, of_images, of_weight), wanted, strict=True):
        assert 0.001 < (one - other).norm() / other.norm() < 0.017


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16)])
def test_the_number_of_threads_does_not_change_a_bit(dtype):
    convolution, images, gradient = build_case(7, 64, 32, 10, 10)
    images, gradient = images.to(dtype), gradient.to(dtype)
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
def test_other_arithmetic_and_other_places_are_refused():
    layer = WinogradConv2d(nn.Conv2d(16, 16, 3, padding=1, bias=False))
    with pytest.raises(ValueError, match=r"not torch\.float64 on cpu"):
        layer(torch.zeros(1, 16, 4, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="on meta"):
        layer(torch.zeros(1, 16, 4, 4, device="meta"))


@pytest.mark.parametrize(
    ("limit", "value"),
    [("LEAST_VALUES", 2 * 16 * 5 * 5 + 1), ("LEAST_FILLED", 5 * 5 / 64 + 0.001)],
    ids=["few values", "tiles that are mostly empty"],
)
def test_what_pytorch_does_faster_is_left_to_it(monkeypatch, limit, value):
    monkeypatch.setattr(f"edgeresnet.training.winograd.{limit}", value)
    convolution, images, _ = build_case(2, 16, 16, 5, 5)
    assert torch.equal(WinogradConv2d(convolution)(images), convolution(images))


@pytest.mark.usefixtures("compiler_missing")
def test_without_a_compiler_the_network_stays_as_it_was():
    network = build_resnet18(2)
    with pytest.raises(CompilerError, match=r"no C\+\+ compiler \(no-such-compiler\)"):
        use_winograd(network)
    assert not any(isinstance(module, WinogradConv2d) for module in network.modules())


@pytest.mark.usefixtures("compiled_anew")
def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path):
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'winograd.cpp: error: no such standard' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(CompilerError, match="no such standard"):
        compile_winograd()


CONFIG = TrainingConfig(epochs=1, batch_size=8, image_size=8, crop_padding=0, validation_fraction=0.2)


@needs_compiler
@pytest.mark.parametrize(("amp", "tolerance"), [(False, 1e-3), pytest.param(True, 1e-2, marks=needs_bfloat16)])
def test_a_run_learns_the_same_with_and_without(image_folder, tmp_path, amp, tolerance):
    lines = []
    for name, wanted in (("with", True), ("without", False)):
        # Small steps: after large ones the two differ by chance.
        config = dataclasses.replace(CONFIG, amp=amp, lr=0.001)
        run_training(config, image_folder, tmp_path / name, device=CPU, winograd=wanted, report=lines.append)
    assert lines.count("13 convolutions by Winograd's algorithm") == 1
    losses = [float((tmp_path / name / "log.csv").read_text().splitlines()[1].split(",")[3]) for name in ("with", "without")]
    assert losses[0] == pytest.approx(losses[1], rel=tolerance)


@pytest.mark.usefixtures("compiler_missing")
def test_a_run_goes_on_without_a_compiler_unless_it_was_asked_for(image_folder, tmp_path):
    with pytest.raises(CompilerError):
        run_training(CONFIG, image_folder, tmp_path / "asked", device=CPU, winograd=True)
    lines = []
    assert run_training(CONFIG, image_folder, tmp_path / "run", device=CPU, report=lines.append).finished
    assert any("no-such-compiler" in line and "slower" in line for line in lines)


@needs_compiler
@pytest.mark.usefixtures("compiled_anew")
def test_a_processor_without_the_arithmetic_says_so(image_folder, tmp_path, monkeypatch):
    """The library as it is compiled for such a processor."""
    flags = [flag if flag != "-march=native" else "-mno-avx512bf16" for flag in winograd.FLAGS]
    monkeypatch.setattr(winograd, "FLAGS", flags)
    config = dataclasses.replace(CONFIG, amp=True)
    with pytest.raises(ProviderError, match="bfloat16 need AVX512-BF16"):
        run_training(config, image_folder, tmp_path / "asked", device=CPU, winograd=True)


@needs_compiler
def test_with_a_matrix_unit_bfloat16_is_left_to_pytorch_unless_it_was_asked_for(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("edgeresnet.training.run.has_matrix_unit", lambda: True)
    lines = []
    run_training(dataclasses.replace(CONFIG, amp=True), image_folder, tmp_path / "run", device=CPU, report=lines.append)
    assert not any("Winograd" in line for line in lines)

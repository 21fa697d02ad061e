"""3x3 convolutions in a quarter of the multiplications, for training in float32 on a CPU.

``winograd.cpp`` has the algorithm. It is compiled for the processor at hand when it is first needed, which takes two seconds;
PyTorch's own convolutions are at the processor's peak here, so fewer multiplications are the only way past them.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
from ctypes import c_bool, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from edgeresnet.errors import CompilerError

SOURCE: Final = Path(__file__).with_suffix(".cpp")
# A product and the sum it goes into are rounded once. Nothing else may be reordered: -ffast-math would also have the whole
# process flush denormals.
FLAGS: Final = ("-std=c++20", "-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", "-pthread")
# Channels that lie together in winograd.cpp.
PANEL: Final = 16
# Fewer input values than this PyTorch convolves as fast or faster: the weights are transformed however few images there are.
# At the boundary the two are within a third of each other for 64 to 512 channels (AVX2, two cores), at 16 times as many
# Winograd's takes 0.4 of the time.
LEAST_VALUES: Final = 2**18


def use_winograd(network: nn.Module) -> int:
    """Replace the convolutions that Winograd's algorithm computes, in place: 3x3, stride 1, padding 1, channels a multiple of 16.

    Weights stay the same parameters under the same names, so that optimizers and state dictionaries go on to fit. A result
    differs from PyTorch's by some 1e-5 of the largest one, the rounding of the transforms. The number of threads does not change it.

    Args:
        network: A network of float32 on the CPU.

    Returns:
        How many convolutions there were.

    Raises:
        CompilerError: If there is no C++ compiler, or it does not take the source. The network is as it was.
    """
    compile_winograd()
    fitting = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Conv2d) and _fits(child)
    ]
    for parent, name, convolution in fitting:
        setattr(parent, name, WinogradConv2d(convolution))
    return len(fitting)


@cache
def compile_winograd() -> ctypes.CDLL:
    """Compile ``winograd.cpp`` with ``$CXX`` or the system's C++ compiler, once in a process.

    Raises:
        CompilerError: If there is none, or it fails.
    """
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None:
        raise CompilerError(f"no C++ compiler ({', '.join(names)}) on the PATH")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        library = Path(folder) / "winograd.so"
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # the user's own compiler
        if done.returncode:
            reason = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
            raise CompilerError(f"{compiler} does not compile {SOURCE.name}: {reason}")
        loaded = ctypes.CDLL(str(library))
    loaded.winograd_weights.argtypes = [c_void_p, c_void_p, c_int64, c_int64, c_bool, c_int]
    loaded.winograd_convolve.argtypes = [*[c_void_p] * 3, *[c_int64] * 5, c_int]
    loaded.winograd_weight_gradient.argtypes = [*[c_void_p] * 3, *[c_int64] * 5, c_int]
    for function in (loaded.winograd_weights, loaded.winograd_convolve, loaded.winograd_weight_gradient):
        function.restype = None
    return loaded


class WinogradConv2d(nn.Module):
    """A 3x3 convolution of stride 1 and padding 1 without bias: float32 (N, from, H, W) to (N, to, H, W), on the CPU.

    Small inputs are left to PyTorch.

    Args:
        convolution: The one whose weight it takes over, float32 (to, from, 3, 3); both channels are multiples of 16.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight = convolution.weight

    def forward(self, images: Tensor) -> Tensor:
        if images.device.type != "cpu" or images.dtype != torch.float32:
            raise ValueError(f"Winograd's convolution takes float32 on the CPU, not {images.dtype} on {images.device}")
        if images.numel() < LEAST_VALUES:
            return functional.conv2d(images, self.weight, padding=1)
        outputs: Tensor = _Convolution.apply(images, self.weight)
        return outputs


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor) -> Tensor:
        images, weight = _channels_last(images), _channels_last(weight)
        ctx.save_for_backward(images, weight)
        return _convolve(images, weight, backward=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        images, weight = ctx.saved_tensors
        gradient = _channels_last(gradient)
        of_images, of_weight = ctx.needs_input_grad
        return (
            _convolve(gradient, weight, backward=True) if of_images else None,
            _differentiate_weight(images, gradient) if of_weight else None,
        )


def _convolve(images: Tensor, weight: Tensor, *, backward: bool) -> Tensor:
    """Outputs from inputs, or (``backward``) the gradient of the inputs from that of the outputs."""
    library, threads = compile_winograd(), torch.get_num_threads()
    count, channels, height, width = images.shape
    spectra = torch.empty(36 * weight.shape[0] * weight.shape[1])
    library.winograd_weights(weight.data_ptr(), spectra.data_ptr(), weight.shape[1], weight.shape[0], backward, threads)
    to = weight.shape[1] if backward else weight.shape[0]
    outputs = torch.empty((count, to, height, width), memory_format=torch.channels_last)
    library.winograd_convolve(images.data_ptr(), spectra.data_ptr(), outputs.data_ptr(), count, height, width, channels, to, threads)
    return outputs


def _differentiate_weight(images: Tensor, gradient: Tensor) -> Tensor:
    count, channels, height, width = images.shape
    weight = torch.empty((gradient.shape[1], channels, 3, 3), memory_format=torch.channels_last)
    compile_winograd().winograd_weight_gradient(
        images.data_ptr(),
        gradient.data_ptr(),
        weight.data_ptr(),
        count,
        height,
        width,
        channels,
        gradient.shape[1],
        torch.get_num_threads(),
    )
    return weight


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def _fits(convolution: nn.Conv2d) -> bool:
    return (
        (convolution.kernel_size, convolution.stride, convolution.padding, convolution.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        and convolution.groups == 1
        and convolution.bias is None
        and convolution.padding_mode == "zeros"
        and convolution.in_channels % PANEL == convolution.out_channels % PANEL == 0
    )

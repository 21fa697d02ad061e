"""3x3 convolutions in a quarter of the multiplications, for training on a CPU in float32 or bfloat16.

``winograd.cpp`` has the algorithm. It is compiled for the processor at hand when it is first needed, which takes two seconds;
PyTorch's own convolutions are at the processor's peak here, so fewer multiplications are the only way past them.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
from ctypes import c_bool, c_int, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from edgeresnet.errors import CompilerError, ProviderError

SOURCE: Final = Path(__file__).with_suffix(".cpp")
# A product and the sum it goes into are rounded once. Nothing else may be reordered: -ffast-math would also have the whole
# process flush denormals.
FLAGS: Final = ("-std=c++20", "-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", "-pthread")
DTYPES: Final = (torch.float32, torch.bfloat16)
# Channels that lie together in winograd.cpp.
PANEL: Final = 16
# Fewer input values than this PyTorch convolves as fast or faster: the weights are transformed however few images there are.
# At the boundary the two are within a third of each other for 64 to 512 channels (float32, AVX2, two cores), at 16 times as many
# Winograd's takes 0.4 of the time.
LEAST_VALUES: Final = 2**18
# Outputs along the edge of a tile in winograd.cpp.
TILE: Final = 4
# Below this part of the tiles' outputs that lie in the image PyTorch is faster: 512 channels of 3x3 pixels fill 0.56 and take as
# long, 2x2 pixels fill a quarter and take 1.5 to 2 times as long (AVX-512, two cores).
LEAST_FILLED: Final = 0.5


def use_winograd(network: nn.Module, dtype: torch.dtype = torch.float32) -> int:
    """Replace the convolutions that Winograd's algorithm computes, in place: 3x3, stride 1, padding 1, channels a multiple of 16.

    Weights stay the same parameters under the same names, so that optimizers and state dictionaries go on to fit. The transforms
    round: a result differs from PyTorch's by some 1e-5 of the largest one in float32, and in bfloat16 by 1 % of what the results
    deviate from each other, where rounding them once to bfloat16 costs 0.2 %. The number of threads does not change it.

    Args:
        network: A network on the CPU with weights of float32.
        dtype: What it computes in, float32 or (under autocast) bfloat16.

    Returns:
        How many convolutions there were.

    Raises:
        CompilerError: If there is no C++ compiler, or it does not take the source. The network is as it was.
        ProviderError: If the processor has no arithmetic for ``dtype``. The network is as it was.
    """
    _find_functions(dtype)
    fitting = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        # Not those of a library that computes something else by a class of its own.
        if type(child) is nn.Conv2d and _fits(child)
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
        return ctypes.CDLL(str(library))


class WinogradConv2d(nn.Module):
    """A 3x3 convolution of stride 1 and padding 1 without bias: (N, from, H, W) to (N, to, H, W), on the CPU.

    Images are of float32 or bfloat16; sums are of float32 either way. Small inputs are left to PyTorch.

    Args:
        convolution: The one whose weight it takes over, float32 (to, from, 3, 3); both channels are multiples of 16.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight = convolution.weight

    def forward(self, images: Tensor) -> Tensor:
        if images.device.type != "cpu" or images.dtype not in DTYPES:
            raise ValueError(f"Winograd's convolution takes float32 or bfloat16 on the CPU, not {images.dtype} on {images.device}")
        if not _pays(images):
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


@dataclass(frozen=True)
class _Functions:
    """The functions of ``winograd.cpp`` for one format of images."""

    transform_weights: Any
    convolve: Any
    differentiate_weights: Any


@cache
def _find_functions(dtype: torch.dtype) -> _Functions:
    library, suffix = compile_winograd(), str(dtype).removeprefix("torch.")

    def find(name: str, pointers: int, sizes: int, *others: Any) -> Any:
        try:
            function = getattr(library, f"{name}_{suffix}")
        except AttributeError as error:
            raise ProviderError(f"Winograd's convolutions in {suffix} need AVX512-BF16, which this processor does not have") from error
        function.argtypes, function.restype = [*[c_void_p] * pointers, *[c_int64] * sizes, *others, c_int], None
        return function

    return _Functions(
        transform_weights=find("transform_weights", 2, 2, c_bool),
        convolve=find("convolve", 3, 5),
        differentiate_weights=find("differentiate_weights", 3, 5),
    )


def _convolve(images: Tensor, weight: Tensor, *, backward: bool) -> Tensor:
    """Outputs from inputs, or (``backward``) the gradient of the inputs from that of the outputs."""
    functions, threads = _find_functions(images.dtype), torch.get_num_threads()
    count, channels, height, width = images.shape
    to = weight.shape[1] if backward else weight.shape[0]
    spectra = torch.empty(36 * channels * to, dtype=images.dtype)
    functions.transform_weights(weight.data_ptr(), spectra.data_ptr(), weight.shape[1], weight.shape[0], backward, threads)
    outputs = torch.empty((count, to, height, width), dtype=images.dtype, memory_format=torch.channels_last)
    functions.convolve(images.data_ptr(), spectra.data_ptr(), outputs.data_ptr(), count, height, width, channels, to, threads)
    return outputs


def _differentiate_weight(images: Tensor, gradient: Tensor) -> Tensor:
    threads = torch.get_num_threads()
    count, channels, height, width = images.shape
    to = gradient.shape[1]
    weight = torch.empty((to, channels, 3, 3), memory_format=torch.channels_last)
    _find_functions(images.dtype).differentiate_weights(
        images.data_ptr(), gradient.data_ptr(), weight.data_ptr(), count, height, width, channels, to, threads
    )
    return weight


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def _pays(images: Tensor) -> bool:
    height, width = images.shape[2:]
    tiles = -(-height // TILE) * -(-width // TILE)
    return images.numel() >= LEAST_VALUES and height * width >= LEAST_FILLED * tiles * TILE**2


def _fits(convolution: nn.Conv2d) -> bool:
    return (
        (convolution.kernel_size, convolution.stride, convolution.padding, convolution.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        and convolution.groups == 1
        and convolution.bias is None
        and convolution.padding_mode == "zeros"
        and convolution.in_channels % PANEL == convolution.out_channels % PANEL == 0
    )

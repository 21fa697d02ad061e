"""Where to train, and in what arithmetic."""

import torch

from edgeresnet.errors import ProviderError


def choose_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` into a device that is there.

    Raises:
        ProviderError: If it is not.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ProviderError(f"unknown device {name!r}; choose from auto, cpu, cuda, cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ProviderError(
            f"device {name!r} was asked for, but PyTorch {torch.__version__} finds {torch.cuda.device_count()} CUDA devices"
        )
    if device.type not in ("cpu", "cuda"):
        raise ProviderError(f"device {name!r} is not supported; choose from auto, cpu, cuda, cuda:N")
    return device


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 arithmetic; where it is emulated it is slower than float32.

    With AMX a step of this network takes a third of the float32 time, with AVX512-BF16 alone half of it on an AMD EPYC and 1.5 times as
    much on an Intel Xeon; on AVX2 there is no such arithmetic.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))

"""Which files hold weights rather than a model, by their first bytes."""

from pathlib import Path
from typing import Final

# A zip archive and a plain pickle: what torch.save writes today and wrote before.
_PICKLE_STARTS: Final = (b"PK\x03\x04", b"\x80")


def is_safetensors(content: bytes) -> bool:
    """Whether it begins as a safetensors file: with the length of its header in 8 bytes, and the header is a JSON object."""
    return content[8:9] == b"{"


def is_pickle(content: bytes) -> bool:
    """Whether it begins as what ``torch.save`` writes; the length of a safetensors header may begin so, too."""
    return content.startswith(_PICKLE_STARTS) and not is_safetensors(content)


def explain(path: Path, reason: object) -> str:
    """Why a file is not the model that it was taken for: since it holds weights, as it seems, or for what a reader said of it."""
    with path.open("rb") as file:
        start = file.read(16)
    if is_pickle(start) or is_safetensors(start):
        return f"it looks like weights; fix: `edgeresnet export {path}` makes models of them"
    return str(reason)

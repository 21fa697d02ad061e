"""What ``edgeresnet tune`` chose for a machine, as a small JSON file that an application is started with."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from edgeresnet.errors import EdgeResNetError, ModelFormatError, ModelNotFoundError
from edgeresnet.files import write_text
from edgeresnet.machine import cpu_model
from edgeresnet.modelfile import read_model_file
from edgeresnet.target import Target

SCHEMA: Final = "edgeresnet.profile/2"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A model and how to run it on one machine.

    Attributes:
        model: The ONNX file.
        model_sha256: Hex SHA-256 of that file.
        target: Where and how to run it.
        cpu: Name of the processor that it was measured on.
        images_per_call: Images of each measured call.
        p50_ms: Median time of such a call.
    """

    model: Path
    model_sha256: str
    target: Target
    cpu: str
    images_per_call: int
    p50_ms: float

    @classmethod
    def of(cls, model: Path, target: Target, *, images_per_call: int, p50_ms: float) -> Self:
        """Describe what was measured on this machine."""
        sha256 = read_model_file(model).sha256
        return cls(model=model, model_sha256=sha256, target=target, cpu=cpu_model(), images_per_call=images_per_call, p50_ms=p50_ms)

    @property
    def elsewhere(self) -> str | None:
        """A warning if this machine is not the one that it was measured on."""
        here = cpu_model()
        return f"the profile was measured on {self.cpu}, this is {here}: tune again for its best" if here != self.cpu else None

    def write(self, path: Path) -> None:
        """Write the profile; the model is named relative to it, so that both can be moved together."""
        entries = asdict(self) | {"model": os.path.relpath(self.model.resolve(), path.resolve().parent)}
        write_text(path, json.dumps({"schema": SCHEMA, **entries}, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a profile and make sure that its model is still the one that was measured.

        Raises:
            ModelFormatError: If it is not a profile, or the model is another.
            ModelNotFoundError: If there is no such profile or model.
        """
        try:
            entries: dict[str, Any] = json.loads(path.read_text("utf-8"))
            schema = entries.pop("schema")
            if schema != SCHEMA:
                raise ModelFormatError(f"{path}: is of form {schema!r}, this release reads {SCHEMA!r}; fix: edgeresnet tune")
            target = Target(**entries.pop("target"))
            profile = cls(model=path.parent / entries.pop("model"), target=target, **entries)
        except EdgeResNetError:
            raise
        except FileNotFoundError as error:
            raise ModelNotFoundError(f"{path}: there is no such profile") from error
        except OSError as error:
            raise ModelFormatError(f"{path}: cannot be read ({error.strerror or error})") from error
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ModelFormatError(f"{path}: is not a profile ({error!r}); fix: make one with `edgeresnet tune`") from error
        if read_model_file(profile.model).sha256 != profile.model_sha256:
            raise ModelFormatError(f"{profile.model}: is not the model that {path} was measured with; fix: run `edgeresnet tune` again")
        return profile

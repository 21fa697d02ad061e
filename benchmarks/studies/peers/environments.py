"""Makes the environments, once."""

import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import benchmarks
import edgeresnet
from benchmarks.studies.peers.processes import PeerError, Worker, last_line
from benchmarks.studies.peers.roster import OURS, Environment
from edgeresnet.files import write_text


def make_environment(environment: Environment, cache: Path) -> None:
    """Make a virtual environment, unless it is there with the same requirements.

    Raises:
        PeerError: If pip cannot install what it needs; another call tries again.
    """
    folder = cache / "environments" / environment.name
    stamp = folder / "requirements.txt"
    wanted = "\n".join((f"# Python {sys.version}", *environment.requirements))
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    if folder.exists():
        shutil.rmtree(folder)
    venv.create(folder, with_pip=True)
    log = cache / "logs" / f"pip-{environment.name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        command = [str(_python(cache, environment.name)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += environment.requirements
        result = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)  # noqa: S603  # pip, our own list
    if result.returncode:
        raise PeerError(f"pip cannot install {', '.join(environment.requirements)}{last_line(log, ': ')}; all that it said: {log}")
    write_text(stamp, wanted)


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Where workers come from.

    Attributes:
        cache: Folder that keeps environments, files and logs.
        packages: Of ``own_packages``.
        threads: CPU threads of each worker.
    """

    cache: Path
    packages: Path
    threads: int

    def start(self, environment: str, task: str) -> Worker:
        """Start a process of an environment that has been made; ``task`` names its log."""
        python = Path(sys.executable) if environment == OURS else _python(self.cache, environment)
        return Worker(python, self.packages, self.cache / "logs" / f"{task}.txt", self.threads)


def _python(cache: Path, environment: str) -> Path:
    return cache / "environments" / environment / "bin" / "python"


@contextmanager
def own_packages() -> Iterator[Path]:
    """A folder that has our packages, and nothing else of the environment that they are installed in."""
    with TemporaryDirectory(prefix="edgeresnet-") as name:
        folder = Path(name)
        for package in (edgeresnet, benchmarks):
            (folder / package.__name__).symlink_to(Path(str(package.__file__)).parent)
        yield folder

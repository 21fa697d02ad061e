"""Every file in tests/attacks is an attack that one can run by hand; here all of them have to fail."""

import subprocess
import sys
from pathlib import Path

import pytest

ATTACKS = sorted(Path(__file__).parent.glob("attacks/[!_]*.py"))


@pytest.mark.parametrize("script", ATTACKS, ids=lambda path: path.stem)
def test_an_attack_fails(script, tmp_path):
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "refused: " in done.stdout
    assert "EP Error" not in done.stdout  # ONNX Runtime's word to nobody
    assert not list(tmp_path.iterdir())

"""Names of files and classes as people, and their enemies, write them."""

import json
import os
import subprocess
import sys

import onnx
import pytest
from PIL import Image
from rich.table import Table

from edgeresnet.cli.terminal import note, show


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "edgeresnet", *map(str, arguments)], env=os.environ | environment, capture_output=True, check=False
    )


@pytest.fixture
def pictures(tmp_path):
    """A function that makes small images of the names given, and returns their folder."""

    def make(*names):
        folder = tmp_path / "pictures"
        folder.mkdir(exist_ok=True)
        for name in names:
            Image.new("RGB", (8, 8)).save(folder / os.fsdecode(name))
        return folder

    return make


BRACKETS = ("cat[copy].png", "cat[1].png", "[bold]dog.png", "new[red.png", "[link=x]y.png", ":dog:.png")


def test_brackets_and_colons_are_part_of_a_name(run_cli, pictures):
    result = run_cli("predict", pictures(*BRACKETS))
    assert result.status == 0
    for name in BRACKETS:
        assert name in result.out


def test_a_long_name_stands_whole_in_the_table(run_cli, pictures):
    name = "a" * 200 + ".png"
    printed = run_cli("predict", pictures(name)).out
    assert printed.count("a") >= 200
    assert "…" not in printed


def test_no_table_reads_markup_in_its_cells(capsys):
    table = Table("[b]head[/b]", caption="see [1] :cat:")
    table.add_row("cell [/a] [red]x")
    show(table)
    printed = capsys.readouterr().out
    for text in ("[b]head[/b]", "see [1] :cat:", "cell [/a] [red]x"):
        assert text in printed


def test_a_terminal_obeys_no_name(run_cli, pictures, capsys):
    folder = pictures("red\x1b[31m.png", "two\nlines.png")
    result = run_cli("predict", folder)
    assert "\x1b" not in result.out
    assert "red\\x1b[31m.png" in result.out
    note("bell\a and \x1b[2J")
    assert capsys.readouterr().err == "bell\\x07 and \\x1b[2J\n"
    failed = run_cli("predict", folder / "no\x1b[2J.png")
    assert "no\\x1b[2J.png: no such file" in failed.err


def test_a_models_labels_are_text(run_cli, exports, pictures, tmp_path):
    model = onnx.load(exports["fp32"].path)
    labels = json.dumps([f"[red]\x1b[2J{i}" for i in range(10)])
    for entry in model.metadata_props:
        if entry.key == "edgeresnet.labels":
            entry.value = labels
    onnx.save(model, tmp_path / "model.onnx")
    for command in (("predict", pictures("a.png"), "--model", tmp_path / "model.onnx"), ("info", tmp_path / "model.onnx")):
        result = run_cli(*command)
        assert result.status == 0
        assert "[red]" in result.out
        assert "\x1b" not in result.out


@pytest.mark.parametrize("style", ["table", "json", "jsonl"])
def test_names_that_are_not_utf8_are_listed(pictures, style):
    try:
        folder = pictures("plain.png", b"caf\xe9.png")
    except OSError:
        pytest.skip("this file system has no such names")
    done = python("predict", folder, "--format", style, PYTHONIOENCODING="utf-8:strict")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"plain.png" in done.stdout
    if style == "table":
        assert b"caf\\udce9.png" in done.stdout
    else:
        rows = json.loads(done.stdout) if style == "json" else map(json.loads, done.stdout.splitlines())
        assert os.fsencode(folder / os.fsdecode(b"caf\xe9.png")) in [os.fsencode(row["image"]) for row in rows]


def test_a_terminal_that_is_not_utf8_is_no_traceback(pictures):
    folder = pictures("katze-süß.png", "猫.png")
    done = python("predict", folder, folder / "keine-süße.png", PYTHONIOENCODING="ascii:strict")
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"katze-s\\xfc\\xdf.png" in done.stdout
    assert b"\\u732b.png" in done.stdout
    assert b"keine-s\\xfc\\xdfe.png: no such file" in done.stderr

import dataclasses
import json

from click.testing import CliRunner

from benchmarks.studies import networks


def test_a_network_is_quantized_and_compared_with_the_stock_form(monkeypatch, tmp_path):
    monkeypatch.setattr(networks, "SIZE", 64)
    monkeypatch.setattr(networks, "ROUNDS", 1)
    monkeypatch.setattr(networks.os, "sched_setaffinity", lambda pid, cores: None)
    result = CliRunner().invoke(networks.command, ["--network", "resnet18", "--record", str(tmp_path / "record.json")])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "record.json").read_text())
    assert result.stdout == networks.tabulate(record["results"])
    (network,) = record["results"]
    assert (record["size"], network["network"], network["layers"]) == (64, "resnet18", 21)
    assert network["layers_in_int8"] >= 19
    assert network["int8_db"] > 25
    assert network["speedup"] == network["fp32_ms"] / network["int8_ms"]
    assert 11 < network["size_mb"] < 13


def test_a_form_that_is_refused_is_said_to_be():
    names = [field.name for field in dataclasses.fields(networks.NetworkResult)]
    result = dict.fromkeys(names, 2.0) | {
        "network": "n",
        "layers": 7,
        "layers_in_int8": 5,
        "static_layers_in_int8": None,
        "static_speedup": None,
    }
    (row,) = networks.tabulate([result]).splitlines()[2:]
    assert row == "| n | 2.0 | 2.00x, 2 dB | 5 of 7 | refused | - | 2.00x, 2 dB | 2.00x, 2 dB |"

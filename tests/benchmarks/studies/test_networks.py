import json

from click.testing import CliRunner

from benchmarks.studies import networks


def test_a_network_is_quantized_and_compared_with_the_stock_form(monkeypatch):
    monkeypatch.setattr(networks, "SIZE", 64)
    monkeypatch.setattr(networks, "ROUNDS", 1)
    monkeypatch.setattr(networks.os, "sched_setaffinity", lambda pid, cores: None)
    result = CliRunner().invoke(networks.command, ["--network", "resnet18"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    (network,) = record["results"]
    assert (record["size"], network["network"], network["layers"]) == (64, "resnet18", 21)
    assert network["layers_in_int8"] >= 19
    assert network["int8_db"] > 25
    assert network["speedup"] == network["fp32_ms"] / network["int8_ms"]
    assert 11 < network["size_mb"] < 13

import json

from click.testing import CliRunner

from benchmarks.studies import forms, networks


def test_a_network_is_quantized_and_compared_with_the_stock_form(monkeypatch, tmp_path):
    monkeypatch.setattr(networks, "SIZE", 64)
    monkeypatch.setattr(forms, "ROUNDS", 1)
    result = CliRunner().invoke(networks.command, ["--network", "resnet18", "--record", str(tmp_path / "record.json")])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "record.json").read_text())
    assert result.stdout == networks.tabulate(record["results"])
    (network,) = record["results"]
    assert (record["size"], network["network"], network["layers"]) == (64, "resnet18", 21)
    assert [form for form in forms.FORMS if form in network["forms"]] == ["dynamic", "static", "stock-dynamic", "stock-static"]
    dynamic, static, stock, stock_static = network["forms"].values()
    # Which layers pay depends on the processor and on what else it does.
    assert all(0 < form["layers_in_int8"] <= 21 for form in (dynamic, static))
    assert dynamic["sqnr_db"] > 25
    assert static["sqnr_db"] > 18
    assert dynamic["sqnr_db"] > stock["sqnr_db"]
    assert static["sqnr_db"] > stock_static["sqnr_db"]
    assert (stock["layers_in_int8"], stock_static["layers_in_int8"]) == (None, None)
    assert dynamic["speedup"] == network["fp32_ms"] / dynamic["ms"]
    assert 11 < dynamic["size_mb"] < 45


def test_a_form_that_could_not_be_made_has_no_figures():
    form = {"ms": 1.0, "speedup": 2.0, "sqnr_db": 31.4, "size_mb": 3.0, "layers_in_int8": None}
    made = {"dynamic": form | {"layers_in_int8": 5}, "stock-static": form}
    (row,) = networks.tabulate([{"network": "n", "layers": 7, "fp32_ms": 2.0, "forms": made}]).splitlines()[2:]
    assert row == "| n | 2.0 | 2.00x, 31 dB, 5 of 7 | - | - | 2.00x, 31 dB | - | - | - |"

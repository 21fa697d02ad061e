import json


def test_a_healthy_machine_ends_with_status_0(run_cli):
    result = run_cli("doctor", "--format", "json")
    report = json.loads(result.out)
    assert (result.status, result.err) == (0, "")
    assert (report["schema"], report["healthy"]) == ("edgeresnet.doctor/1", True)
    assert {"subject", "status", "found", "fix"} == set(report["findings"][0])


def test_what_is_asked_for_and_broken_ends_with_status_1_and_the_fix(run_cli):
    result = run_cli("doctor", "--provider", "cuda")
    assert result.status == 1
    line, fix = result.out.split("provider cuda")[1].splitlines()[:2]
    assert "built without CUDA" in line
    assert "fix: pip uninstall onnxruntime, then pip install 'edgeresnet[gpu]'" in fix
    assert "broken  provider cuda" in result.out

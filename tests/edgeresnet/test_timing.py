import time

import pytest

from edgeresnet.timing import time_calls


def test_a_call_is_repeated_as_often_as_asked_and_timed_in_milliseconds():
    times = time_calls(lambda: time.sleep(0.02), seconds=0, least=3)
    assert len(times) == 3
    assert all(time >= 20 for time in times)
    assert time_calls(lambda: None, seconds=0) == [pytest.approx(0, abs=20)]


def test_calls_go_on_until_the_time_is_up():
    began = time.perf_counter()
    times = time_calls(lambda: time.sleep(0.01), seconds=0.1, least=2)
    assert time.perf_counter() - began >= 0.1
    assert sum(times) <= 1000 * (time.perf_counter() - began)
    assert len(times) <= 10

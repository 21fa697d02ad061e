import threading

import pytest

from edgeresnet.lifetime import Lifetime


def test_the_end_waits_for_all_who_are_within():
    lifetime = Lifetime()
    entered, leave, ended = threading.Barrier(3), threading.Event(), threading.Event()

    def user():
        with lifetime.use():
            entered.wait()
            leave.wait()

    def closer():
        assert lifetime.end()
        ended.set()

    threads = [threading.Thread(target=user), threading.Thread(target=user)]
    for thread in threads:
        thread.start()
    entered.wait()
    threads.append(threading.Thread(target=closer))
    threads[-1].start()
    assert not ended.wait(0.1)
    with pytest.raises(ValueError, match="the classifier is closed"), lifetime.use():
        pass
    leave.set()
    assert ended.wait(10)
    for thread in threads:
        thread.join()
    assert not lifetime.end()


def test_an_error_within_is_an_exit_too():
    lifetime = Lifetime()
    with pytest.raises(KeyError), lifetime.use():
        raise KeyError
    assert lifetime.end()


def test_a_child_of_a_fork_has_nothing_to_end(monkeypatch):
    lifetime = Lifetime()
    monkeypatch.setattr("os.getpid", lambda: -1)
    assert not lifetime.end()
    with pytest.raises(ValueError, match="before this process was forked"), lifetime.use():
        pass

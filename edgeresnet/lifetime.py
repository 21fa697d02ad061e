"""Use by many threads, an end that waits for them, and children of a fork that inherit what they cannot use."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class Lifetime:
    """From its making to ``end``, any number of threads may be within ``use``; only the process that made it."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._changed = Condition()
        self._users = 0
        self._ended = False

    @property
    def is_inherited(self) -> bool:
        """Whether this process was forked off after the making."""
        return os.getpid() != self._process

    @contextmanager
    def use(self) -> Iterator[None]:
        """Work that has to be over before the end.

        Raises:
            ValueError: If the end has come, or another process made this.
        """
        if self.is_inherited:  # before the lock, which a thread that stayed behind may have held
            raise ValueError("the classifier was opened before this process was forked, and its threads stayed behind; fix: open it here")
        with self._changed:
            if self._ended:
                raise ValueError("the classifier is closed")
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    def end(self) -> bool:
        """Let nobody in any more, and wait until all are out.

        Returns:
            Whether it was this call that ended it: whoever did frees what was used.
        """
        if self.is_inherited:
            return False
        with self._changed:
            first, self._ended = not self._ended, True
            self._changed.wait_for(lambda: self._users == 0)
            return first

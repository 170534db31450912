"""How often connections with unread responses are checked, however long they have them."""

from typing import Any

import pytest

from app.web import unsent_responses
from app.web.unsent_responses import CREDIT, UnsentCounter


class Timer:
    """The timer of a call that is due later."""

    def __init__(self, timers: list["Timer"], call: Any, arguments: tuple[Any, ...]) -> None:
        self.timers, self.call, self.arguments = timers, call, arguments

    def cancel(self) -> None:
        if self in self.timers:
            self.timers.remove(self)


class Loop:
    """An event loop whose timers the test runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Any, *arguments: Any) -> Timer:
        self.timers.append(Timer(self.timers, call, arguments))
        return self.timers[-1]

    def go_on(self) -> None:
        """Run all timers."""
        self.now += unsent_responses.SWEEP_INTERVAL
        timers = self.timers[:]
        self.timers.clear()
        for timer in timers:
            timer.call(*timer.arguments)


class Slow:
    """A connection that has unread bytes at every check, until it is disconnected."""

    unread_bytes = 0
    unread_address = ""

    def __init__(self, counter: UnsentCounter, loop: Loop, until: float) -> None:
        self.counter, self.loop, self.credit_until, self.updates = counter, loop, until, 0

    def update(self, now: float) -> None:
        self.updates += 1
        size = self.unread_bytes
        self.counter.set_size(self, self.unread_address, size)  # type: ignore[arg-type]

    def disconnect(self) -> None:
        self.counter.set_size(self, self.unread_address, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("clients", [1, 2, 60])
@pytest.mark.parametrize("sweeps", [1, 30])
def test_a_slow_reader_is_checked_once_in_a_while(clients, sweeps):
    """
    Once, each sweep started two others: after half a minute a single slow reader stopped the
    whole service.
    """
    counter, loop = UnsentCounter(), Loop()
    slow = [Slow(counter, loop, until=float("inf")) for _ in range(clients)]
    for one in slow:
        counter.set_size(one, "192.0.2.1", 1_000)  # type: ignore[arg-type]
    for _ in range(sweeps):
        loop.go_on()
        assert len(loop.timers) == 1
    assert {one.updates for one in slow} == {sweeps}


def test_sweeps_end_without_unread_responses_and_begin_again():
    """
    A connection is disconnected when its credit is used up, and the next one is checked in the
    same way.
    """
    counter, loop = UnsentCounter(), Loop()
    for _ in range(3):
        slow = Slow(counter, loop, until=loop.now + CREDIT)
        counter.set_size(slow, "192.0.2.1", 1_000)  # type: ignore[arg-type]
        while counter.connections:
            assert len(loop.timers) == 1
            loop.go_on()
        assert loop.now >= slow.credit_until
        assert (loop.timers, counter.total) == ([], 0)

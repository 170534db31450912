"""How often the connections that hold something are looked at, however long they hold it."""

from typing import Any

import pytest

from app.web import unsent
from app.web.unsent import CREDIT, Ledger


class Timer:
    """What a loop gives for a call that is due later."""

    def __init__(self, timers: list["Timer"], call: Any, arguments: tuple[Any, ...]) -> None:
        self.timers, self.call, self.arguments = timers, call, arguments

    def cancel(self) -> None:
        if self in self.timers:
            self.timers.remove(self)


class Loop:
    """A loop whose timers are run by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Any, *arguments: Any) -> Timer:
        self.timers.append(Timer(self.timers, call, arguments))
        return self.timers[-1]

    def go_on(self) -> None:
        """Run what waits."""
        self.now += unsent.LOOK_EVERY
        timers = self.timers[:]
        self.timers.clear()
        for timer in timers:
            timer.call(*timer.arguments)


class Slow:
    """A connection that still holds something whenever it is looked at, until it is ended."""

    held = 0
    held_for = ""

    def __init__(self, ledger: Ledger, loop: Loop, until: float) -> None:
        self.ledger, self.loop, self.read_until, self.looks = ledger, loop, until, 0

    def look(self, now: float) -> None:
        self.looks += 1
        self.ledger.hold(self, self.held_for, self.held)  # type: ignore[arg-type]

    def give_up(self) -> None:
        self.ledger.hold(self, self.held_for, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("clients", [1, 2, 60])
@pytest.mark.parametrize("sweeps", [1, 30])
def test_a_slow_reader_is_looked_at_once_in_a_while(clients, sweeps):
    """Each sweep began two others: after half a minute a single slow reader stopped the whole service."""
    ledger, loop = Ledger(), Loop()
    slow = [Slow(ledger, loop, until=float("inf")) for _ in range(clients)]
    for one in slow:
        ledger.hold(one, "192.0.2.1", 1_000)  # type: ignore[arg-type]
    for _ in range(sweeps):
        loop.go_on()
        assert len(loop.timers) == 1
    assert {one.looks for one in slow} == {sweeps}


def test_sweeps_end_with_what_is_held_and_begin_again():
    """A connection is ended when its credit is used up, and the next one is looked at as the first was."""
    ledger, loop = Ledger(), Loop()
    for _ in range(3):
        slow = Slow(ledger, loop, until=loop.now + CREDIT)
        ledger.hold(slow, "192.0.2.1", 1_000)  # type: ignore[arg-type]
        while ledger.holding:
            assert len(loop.timers) == 1
            loop.go_on()
        assert loop.now >= slow.read_until
        assert (loop.timers, ledger.total) == ([], 0)

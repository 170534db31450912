"""A queue in turns by client."""

import pytest

from api.fair_queue import FairQueue


def queue_of(items: str) -> FairQueue[str]:
    """Return a queue of items, each named for its client: "a2" is an item of "a"."""
    queue: FairQueue[str] = FairQueue()
    for item in items.split():
        queue.add(item[0], item)
    return queue


def drained(queue: FairQueue[str]) -> str:
    """Return all items in the order of their turns."""
    return " ".join(iter(queue.take_next, None))


@pytest.mark.parametrize(
    ("items", "order"),
    [
        pytest.param("a1 a2 a3", "a1 a2 a3", id="one client: as they came"),
        pytest.param("a1 a2 a3 b1", "a1 b1 a2 a3", id="one item behind many of another client"),
        pytest.param("a1 a2 a3 b1 b2 c1", "a1 b1 c1 a2 b2 a3", id="three clients"),
        pytest.param("", "", id="empty"),
    ],
)
def test_clients_take_turns(items, order):
    queue = queue_of(items)
    assert drained(queue) == order
    assert (len(queue), queue._by_client) == (0, {})


def test_a_client_that_may_have_no_turn_keeps_its_place():
    queue = queue_of("a1 a2 b1")
    assert queue.take_next(lambda client: client == "b") == "b1"
    assert queue.take_next(lambda client: client == "b") is None
    assert drained(queue) == "a1 a2"


def test_items_leave():
    """The first, the last, one that is not queued, and the only one of a client."""
    queue = queue_of("a1 a2 a3 b1")
    assert (queue.busiest_client(), queue.count("a"), queue.count("c"), len(queue)) == (
        "a",
        3,
        0,
        4,
    )
    assert queue.take_newest("a") == "a3"
    queue.remove("a", "a1")
    queue.remove("a", "a1")
    queue.remove("c", "c1")
    queue.remove("b", "b1")
    assert (len(queue), queue.count("b"), drained(queue)) == (1, 0, "a2")

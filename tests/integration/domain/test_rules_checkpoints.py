"""Forgeries that break the rules of checkpoints and of the readings that they use."""

from collections.abc import Callable
from uuid import uuid4

import pytest
from record_server import copy_of, rehearsed
from tampering import Content, entry_of, forge, one_of_each_rule, shifted

from tests.integration.domain.test_rules import check_forgery, discrepancies_of

__all__ = ["rehearsed"]

MONDAY = "2026-10-12"
NINE = "2026-10-15T13:00:00.000000Z"  # in New York, on its day 3
Contents = list[Content]
Forgery = Callable[[Contents], Contents | None]


def day(contents: Contents, number: int, run_date: str = MONDAY) -> Content:
    """Return the entry of a day of a Monday."""
    return entry_of(contents, "CHECKPOINT", run_date=run_date, day=str(number))


def every(contents: Contents, table_id: str) -> list[dict[str, str]]:
    """Return all mentions of a row."""
    mentions = []
    for content in contents:
        for held in content.values():
            rows = held if isinstance(held, list) else [held]
            mentions += [row for row in rows if isinstance(row, dict) and row.get("id") == table_id]
    return mentions


def taken(content: Content, at: str) -> None:
    """Let a checkpoint be taken at this time."""
    content["at"] = content["checkpoint"]["taken_at"] = at
    if content["checkpoint"]["status"] == "skipped":
        content["checkpoint"]["skipped_at"] = at


def skipped(content: Content, reason: str, at: str) -> None:
    """Let a computed checkpoint be skipped."""
    row = content["checkpoint"]
    for name in list(row):
        if name.startswith("benchmark_") or name == "trading_day":
            del row[name]
    row |= {"status": "skipped", "skip_reason": reason, "note": "nothing"}
    taken(content, at)
    content["metrics"], content["closes"] = [], []


def in_checkpoint(number: int, **values: str | None) -> Forgery:
    """Return a change of values of a checkpoint."""

    def change(contents: Contents) -> None:
        row = day(contents, number)["checkpoint"]
        for name, value in values.items():
            row.pop(name, None)
            if value is not None:
                row[name] = value

    return change


def at(number: int, time: str) -> Forgery:
    """Return a change of the time at which a checkpoint is taken."""
    return lambda contents: taken(day(contents, number), time)


def skip(number: int, reason: str, time: str) -> Forgery:
    """Return a change that skips a checkpoint."""
    return lambda contents: skipped(day(contents, number), reason, time)


def a_second_day_three(contents: Contents) -> None:
    copy = {
        **day(contents, 6)["checkpoint"],
        "id": str(uuid4()),
        "day": "5",
        "checkpoint_date": "2026-10-17",
    }
    entry = {**day(contents, 6), "checkpoint": copy}
    contents.insert(contents.index(day(contents, 6)) + 1, entry)


def a_day_fifteen(contents: Contents) -> None:
    copy = {
        **day(contents, 6)["checkpoint"],
        "id": str(uuid4()),
        "day": "15",
        "checkpoint_date": "2026-10-27",
    }
    taken(entry := {**day(contents, 6), "checkpoint": copy}, "2026-10-27T13:00:00.000000Z")
    after = next(place for place, content in enumerate(contents) if content["at"] > entry["at"])
    contents.insert(after, entry)


def without_a_metric(contents: Contents) -> None:
    day(contents, 3)["metrics"].pop()


def without_metrics(contents: Contents) -> None:
    day(contents, 3)["metrics"].clear()


def with_two_of_a_pick(contents: Contents) -> None:
    metrics = day(contents, 3)["metrics"]
    metrics.append({**metrics[0], "id": str(uuid4())})


def one_for_another(contents: Contents) -> None:
    metrics = day(contents, 3)["metrics"]
    metrics[2] = {**metrics[0], "id": metrics[2]["id"]}


def a_skipped_day_with_metrics(contents: Contents) -> None:
    entry = day(contents, 6)
    entry["metrics"] = [
        {**metric, "id": str(uuid4()), "checkpoint_id": entry["checkpoint"]["id"]}
        for metric in day(contents, 5)["metrics"]
    ]


def completed_from_the_start(contents: Contents) -> None:
    entry_of(contents, "BATCH", run_date=MONDAY)["batch"]["status"] = "completed"


def completed_a_day_early(contents: Contents) -> None:
    day(contents, 13)["batch"] = day(contents, 14)["batch"]


def never_completed(contents: Contents) -> None:
    del day(contents, 14)["batch"]


def completed_without_a_day(contents: Contents) -> Contents:
    return [content for content in contents if content is not day(contents, 7)]


def retaken_before_the_skip(contents: Contents) -> None:
    retake(contents, note="nothing", again=-2)


def retaken_with_another_note(contents: Contents) -> None:
    retake(contents, note="other", again=2)


def retaken_as_if_never_skipped(contents: Contents) -> None:
    retake(contents, note=None, again=2)


def retaken(contents: Contents) -> None:
    retake(contents, note="nothing", again=2)


def retake(contents: Contents, *, note: str | None, again: float) -> None:
    """
    Skip day 3 at first, because a close is read an hour later, and compute it `again` hours later.
    """
    entry = day(contents, 3)
    at = "2026-10-16T00:30:00.000000Z"
    for row in every(contents, entry["metrics"][0]["close_id"]):
        row["read_at"] = shifted(at, hours=1)
    first: Content = {**entry, "checkpoint": dict(entry["checkpoint"])}
    skipped(first, "MISSING_CLOSE", at)
    contents.insert(contents.index(entry), first)
    taken(entry, shifted(at, hours=again))
    if note:
        entry["checkpoint"] |= {"skip_reason": "MISSING_CLOSE", "note": note, "skipped_at": at}


# The kind: a checkpoint with values that it cannot have on its day.
DAYS = [
    pytest.param("day", in_checkpoint(3, checkpoint_date="2026-10-16"), id="day: another date"),
    pytest.param(
        "day",
        in_checkpoint(6, checkpoint_date="2026-10-17"),
        id="day: another date of a skipped day",
    ),
    pytest.param("day", a_second_day_three, id="day: two checkpoints of a day"),
    pytest.param("day", a_day_fifteen, id="day: a fifteenth day"),
    pytest.param("due", at(3, "2026-10-15T12:59:59.999999Z"), id="due: taken just before nine"),
    pytest.param(
        "due", at(3, "2026-10-14T22:00:00.000000Z"), id="due: taken on the evening before"
    ),
    pytest.param("due", at(6, "2026-10-18T12:00:00.000000Z"), id="due: skipped before nine"),
    pytest.param(
        "session", in_checkpoint(3, trading_day="2026-10-13"), id="session: the session before"
    ),
    pytest.param(
        "session", skip(3, "MARKET_CLOSED", NINE), id="session: a session recorded as a closed day"
    ),
    pytest.param(
        "session",
        in_checkpoint(6, skip_reason="PROVIDER_ERROR"),
        id="session: a Saturday without prices",
    ),
    pytest.param(
        "session",
        in_checkpoint(7, skip_reason="MISSING_CLOSE"),
        id="session: a Sunday without a close",
    ),
    pytest.param(
        "skipped", in_checkpoint(6, trading_day="2026-10-16"), id="skipped: a skip with a session"
    ),
    pytest.param(
        "skipped", in_checkpoint(6, benchmark_price="1.0000"), id="skipped: a skip with a price"
    ),
    pytest.param(
        "skipped",
        in_checkpoint(6, benchmark_unusual_move="false"),
        id="skipped: a skip with a mark",
    ),
    pytest.param(
        "skipped", in_checkpoint(6, skipped_at=None), id="skipped: a skip without its time"
    ),
    pytest.param(
        "skipped",
        in_checkpoint(6, skipped_at="2026-10-18T14:00:00.000000Z"),
        id="skipped: a skip with two times",
    ),
    pytest.param(
        "skipped",
        skip(3, "MISSING_CLOSE", "2026-10-16T00:29:59.000000Z"),
        id="skipped: given up too early",
    ),
    pytest.param("skipped", a_skipped_day_with_metrics, id="skipped: a skip with metrics"),
    pytest.param("computed", in_checkpoint(3, benchmark_return_pct=None), id="computed: no return"),
    pytest.param("computed", in_checkpoint(3, benchmark_close_id=None), id="computed: no reading"),
    pytest.param(
        "computed", in_checkpoint(3, benchmark_split_factor=None), id="computed: no factor"
    ),
    pytest.param(
        "computed", in_checkpoint(3, note="nothing"), id="computed: a note without a skip"
    ),
    pytest.param(
        "computed",
        in_checkpoint(3, skip_reason="PROVIDER_ERROR", note="nothing", skipped_at=NINE),
        id="computed: a skip reason without a skip",
    ),
    pytest.param(
        "computed", retaken_before_the_skip, id="computed: computed before it was skipped"
    ),
    pytest.param(
        "computed",
        retaken_with_another_note,
        id="computed: a note that differs from the note of the skip",
    ),
    pytest.param("computed", retaken_as_if_never_skipped, id="computed: the skip removed"),
    pytest.param("every-metric", without_a_metric, id="every-metric: two metrics"),
    pytest.param("every-metric", without_metrics, id="every-metric: no metric"),
    pytest.param("every-metric", with_two_of_a_pick, id="every-metric: four metrics"),
    pytest.param(
        "every-metric", one_for_another, id="every-metric: two of one pick, none of another"
    ),
    pytest.param("failed", completed_from_the_start, id="failed: completed from the start"),
    pytest.param("completed", completed_a_day_early, id="completed: completed a day early"),
    pytest.param("completed", never_completed, id="completed: never completed"),
    pytest.param("completed", completed_without_a_day, id="completed: completed without a day"),
]


@pytest.mark.parametrize(("rule", "change"), one_of_each_rule(DAYS))
async def test_a_forged_checkpoint(rehearsed, create, rule, change):
    """An impossible day is named, and so is a batch without a day that it should have."""
    await check_forgery(copy_of(rehearsed, create), change, rule)


async def test_a_correct_retake(rehearsed, create):
    """The unchanged retake, from which the forgeries differ, breaks no rule."""
    copy = copy_of(rehearsed, create)
    forge(copy, retaken)
    assert await discrepancies_of(copy) == []


def read_later(contents: Contents) -> None:
    """Let the readings of a day be read after its checkpoint."""
    entry = day(contents, 3)
    for close in entry["closes"]:
        for row in every(contents, close["id"]):
            row["read_at"] = shifted(entry["at"], minutes=2)


def read_before_the_close(contents: Contents) -> None:
    for row in every(contents, day(contents, 3)["closes"][0]["id"]):
        row["read_at"] = "2026-10-14T22:00:00.000000Z"


def read_of_no_session(contents: Contents) -> None:
    for row in every(contents, day(contents, 3)["closes"][0]["id"]):
        row["trading_day"] = "2026-10-11"


def read_of_a_session_to_come(contents: Contents) -> None:
    for row in every(contents, day(contents, 3)["closes"][0]["id"]):
        row["trading_day"] = "2026-10-16"


def restated_as_of(text: str) -> Forgery:
    """
    Return a change that makes the baseline reading of the benchmark one of a restated series, by
    its source.
    """

    def changes(contents: Contents) -> None:
        entry = entry_of(contents, "BATCH", run_date=MONDAY)
        for row in every(contents, entry["batch"]["benchmark_initial_close_id"]):
            row["source"] = f"{row['source']}, restated as of {text}"

    return changes


def batch_before_its_reading(contents: Contents) -> None:
    entry = entry_of(contents, "BATCH", run_date=MONDAY)
    for row in every(contents, entry["closes"][0]["id"]):
        row["read_at"] = shifted(entry["at"], minutes=2)


def split_after_use(contents: Contents) -> None:
    entry = day(contents, 3)
    late = shifted(entry["at"], hours=1)
    ticker = entry["closes"][1]["ticker"]
    split = {
        "ticker": ticker,
        "effective_date": "2026-10-01",
        "factor": "2",
        "source": "x",
        "read_at": late,
    }
    entry["splits"] = [*entry.get("splits", []), split]


def with_a_newer_reading(contents: Contents, hours: float, number: int, *, of: int) -> None:
    """Put a newer reading of what a day uses into the entry before it."""
    entry = day(contents, number)
    used = entry["closes"][of]
    read_at = shifted(entry["at"], hours=-hours)
    for row in every(contents, used["id"]):
        row["read_at"] = shifted(read_at, minutes=-1)
    newer = {**used, "id": str(uuid4()), "close": "77.0000", "read_at": read_at}
    before = contents[contents.index(entry) - 1]
    before["closes"] = [*before.get("closes", []), newer]
    before["at"] = max(before["at"], read_at)


def newer(hours: float, number: int, *, of: int) -> Forgery:
    return lambda contents: with_a_newer_reading(contents, hours, number, of=of)


def pick_of(contents: Contents) -> tuple[Content, dict[str, str]]:
    """Return the entry in which the Monday's picks got their opens, and one of them."""
    opened = next(
        content for content in contents if content["kind"] == "CHECKPOINT" and content.get("picks")
    )
    return opened, opened["picks"][0]


def an_open_without_its_reading(contents: Contents) -> None:
    del pick_of(contents)[1]["entry_close_id"]


def a_reading_without_its_open(contents: Contents) -> None:
    del pick_of(contents)[1]["entry_open"]


def an_open_of_the_baseline(contents: Contents) -> None:
    pick = pick_of(contents)[1]
    pick["entry_close_id"] = pick["initial_close_id"]
    (reading, *_) = every(contents, pick["initial_close_id"])
    pick["entry_open"] = reading["open"]


def an_open_that_is_left_out(contents: Contents) -> None:
    entry, pick = pick_of(contents)
    entry["picks"].remove(pick)
    for metric in (metric for content in contents for metric in content.get("metrics", [])):
        if metric["pick_id"] == pick["id"]:
            metric.pop("return_from_open_pct", None)


def first_metric(contents: Contents) -> dict[str, str]:
    return day(contents, 3)["metrics"][0]


def without_a_return_from_open(contents: Contents) -> None:
    del first_metric(contents)["return_from_open_pct"]


def the_first_without_a_return_from_open(contents: Contents) -> None:
    del pick_of(contents)[0]["metrics"][0]["return_from_open_pct"]


def no_return_from_any_open(contents: Contents) -> None:
    for metric in day(contents, 12)["metrics"]:
        del metric["return_from_open_pct"]


def a_return_from_no_open(contents: Contents) -> None:
    entry, pick = pick_of(contents)
    for close in entry["closes"]:
        close.pop("open", None)
    entry["picks"].remove(pick)


def ended_with_a_close(contents: Contents) -> None:
    first_metric(contents)["ended"] = "true"


def ended_without_an_ending(contents: Contents) -> None:
    metric = first_metric(contents)
    metric["ended"] = "true"
    del metric["close_id"]


def no_close_and_not_ended(contents: Contents) -> None:
    del first_metric(contents)["close_id"]


def an_ending(contents: Contents, last_session: str) -> None:
    """Record before day 3 that a pick ended."""
    entry = day(contents, 3)
    id = entry["metrics"][0]["pick_id"]
    pick = every(contents[: contents.index(entry)], id)[-1]
    ending = {"pick_id": id, "last_session": last_session, "value": "1", "source": "x"}
    at = "2026-10-15T12:00:00.000000Z"
    ended = {"kind": "PICK_ENDED", "at": at, "pick": {**pick, "ended": "true"}, "ending": ending}
    contents.insert(contents.index(entry), ended)
    for row in every(contents[contents.index(ended) :], id):
        row["ended"] = "true"


def not_ended_after_an_ending(contents: Contents) -> None:
    an_ending(contents, "2026-10-13")


# The kind: a row that uses data from after its time, or does not use data from before it.
READINGS = [
    pytest.param(
        "read-before-used", read_later, id="read-before-used: all readings of a day, later"
    ),
    pytest.param(
        "read-before-used",
        batch_before_its_reading,
        id="read-before-used: a baseline's reading, later",
    ),
    pytest.param("read-before-used", split_after_use, id="read-before-used: a split, later"),
    pytest.param(
        "reading-session", read_before_the_close, id="reading-session: read on the day itself"
    ),
    pytest.param("reading-session", read_of_no_session, id="reading-session: of a Sunday"),
    pytest.param(
        "reading-session", read_of_a_session_to_come, id="reading-session: of a future session"
    ),
    pytest.param(
        "reading-session",
        restated_as_of("2026-10-08"),
        id="reading-session: restated before its session",
    ),
    pytest.param(
        "reading-session",
        restated_as_of("2026-10-20"),
        id="reading-session: restated after it was read",
    ),
    pytest.param(
        "reading-session",
        restated_as_of("2026-10-09"),
        id="reading-session: restated on its own session",
    ),
    pytest.param(
        "newest-reading", newer(2, 3, of=0), id="newest-reading: an older reading of the benchmark"
    ),
    pytest.param(
        "newest-reading",
        newer(1.1, 4, of=0),
        id="newest-reading: an older reading, by little more than an hour",
    ),
    pytest.param(
        "entry-open", an_open_without_its_reading, id="entry-open: an open without its reading"
    ),
    pytest.param(
        "entry-open", a_reading_without_its_open, id="entry-open: a reading without its open"
    ),
    pytest.param(
        "entry-open", an_open_of_the_baseline, id="entry-open: the open of another session"
    ),
    pytest.param(
        "entry-open",
        an_open_that_is_left_out,
        id="entry-open: an open that was read but is not filled in",
    ),
    pytest.param("from-open", without_a_return_from_open, id="from-open: no return from the open"),
    pytest.param(
        "from-open",
        the_first_without_a_return_from_open,
        id="from-open: none on the day of the open",
    ),
    pytest.param("from-open", no_return_from_any_open, id="from-open: none of the last session"),
    pytest.param("from-open", a_return_from_no_open, id="from-open: a return without an open"),
    pytest.param("ended", ended_with_a_close, id="ended: ended with a close"),
    pytest.param("ended", ended_without_an_ending, id="ended: ended without an ending"),
    pytest.param("ended", no_close_and_not_ended, id="ended: neither a close nor ended"),
    pytest.param("ended", not_ended_after_an_ending, id="ended: not ended after the ending"),
]


@pytest.mark.parametrize(("rule", "change"), one_of_each_rule(READINGS))
async def test_a_forged_reading(rehearsed, create, rule, change):
    """A reading that could not be used at that time is named, and so is a missing one."""
    await check_forgery(copy_of(rehearsed, create), change, rule)


def read_within_a_minute(contents: Contents) -> None:
    entry = day(contents, 3)
    for close in entry["closes"]:
        holding = min(content["at"] for content in contents if close in content.get("closes", []))
        for row in every(contents, close["id"]):
            row["read_at"] = shifted(holding, seconds=50)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(read_within_a_minute, id="clocks that differ by less than a minute"),
        pytest.param(restated_as_of("some day"), id="a source without a date"),
        pytest.param(restated_as_of("2026-02-30"), id="a source with an invalid date"),
        pytest.param(newer(0.5, 3, of=0), id="a newer reading of the same hour"),
    ],
)
@pytest.mark.sampled(2)
async def test_small_differences_of_clocks(rehearsed, create, change):
    """
    Small differences between the clocks of two processes, and the duration of a job, are no
    discrepancy.
    """
    copy = copy_of(rehearsed, create)
    forge(copy, change)
    assert await discrepancies_of(copy) == []


FORGERIES = [*DAYS, *READINGS]

"""
The rules of dividends and total returns.

Each forgery is a rewritten record, chain and rows, that only the named rule detects.
"""

from copy import deepcopy
from decimal import Decimal, localcontext

import pytest
from forging import all_of, forged_id, refigured
from record_server import as_recorded, changed, copy_of
from sealing import sealed_late
from tampering import Content, entry_of, forge, one_of_each_rule, shifted

from app.domain import returns
from tests.integration.domain.test_rules import check_forgery, discrepancies_of

__all__ = ["as_recorded"]

# The Mondays whose results have a total return. Those of the second one are of 23 October; one of
# its picks is GE, held from 9 October on.
FIRST, SECOND = "2026-10-05", "2026-10-12"
PICK, OTHER_PICK, NEXT_PICK = "GE", "LOW", "LLY"
RESULT_DAY, DAY_BEFORE = "12", "11"
EX_DATE_OF_BENCHMARK = "2026-10-20"
EX_DATE, AMOUNT, BASELINE = "2026-10-15", "0.4000", "2026-10-09"
READ_EARLY = "2026-10-23T19:10:00.000000Z"
OF_TOTAL_RETURN = ("dividends", "total_return_pct", "vs_benchmark_total_pct")
SPIN_OFF = "spin_off_counted_once"
OF_BENCHMARK = (
    "benchmark_dividends",
    "benchmark_total_return_pct",
    "benchmark_spin_off_counted_once",
)


# --- Entries and rows ------------------------------------------------------


def listing(contents, ticker=PICK) -> Content:
    """Return the first READINGS entry about the dividends of a ticker."""
    for content in contents:
        response = content.get("response", {})
        if (response.get("kind"), response.get("ticker")) == ("DIVIDENDS", ticker):
            return content
    raise LookupError(ticker)


def extension(contents, run_date=SECOND) -> Content:
    """Return the entry that adds the total returns of a Monday."""
    return entry_of(contents, "EXTENSION", run_date=run_date)


def pick_of(contents, ticker=PICK) -> dict[str, str]:
    """Return the pick of the second Monday with a ticker."""
    picks = entry_of(contents, "BATCH", run_date=SECOND)["picks"]
    return next(pick for pick in picks if pick["ticker"] == ticker)


def metric_of(contents, ticker=PICK) -> dict[str, str]:
    """Return the metric with a total return of a pick of the second Monday."""
    id = pick_of(contents, ticker)["id"]
    return next(row for row in extension(contents)["metrics"] if row["pick_id"] == id)


def set_list(entry: Content, ex_dates: list[str]) -> None:
    """Give a response these ex-dates, and the first and the last of them."""
    entry["response"]["ex_dates"] = ex_dates
    for name, place in (("first_session", 0), ("last_session", -1)):
        entry["response"].pop(name, None)
        if ex_dates:
            entry["response"][name] = ex_dates[place]


def dividend(entry: Content, ex_date=EX_DATE, amount=AMOUNT) -> dict[str, str]:
    """Return a dividend that the response of an entry lists."""
    response = entry["response"]
    return {
        "ticker": response["ticker"],
        "ex_date": ex_date,
        "amount": amount,
        "source": response["source"],
        "read_at": response["read_at"],
    }


def listed_again(contents, ex_dates: list[str], *, hours=1) -> Content:
    """Return a READINGS entry of a later response about the dividends of the pick."""
    entry = deepcopy(listing(contents))
    entry["at"] = entry["response"]["read_at"] = shifted(entry["at"], hours=hours)
    entry["dividends"] = []
    set_list(entry, ex_dates)
    return entry


def count(contents, row: dict[str, str], dividends: str, ticker=PICK) -> None:
    """Give a metric the total return that follows from the dividends that it received."""
    checkpoint = extension(contents)["checkpoint"]
    first = Decimal(pick_of(contents, ticker)["initial_price"])
    with localcontext(returns.DECIMAL_CONTEXT):
        last = Decimal(row["current_price"]) * Decimal(row["split_factor"])
        total = (last + Decimal(dividends) - first) / first * 100
        beyond = total - Decimal(checkpoint["benchmark_total_return_pct"])
    row["dividends"] = dividends
    row["total_return_pct"] = returns.format_decimal(total)
    row["vs_benchmark_total_pct"] = returns.format_decimal(beyond)


# --- Changes ---------------------------------------------------------------


def paid(contents):
    """The pick paid a dividend, which was read, counted and held."""
    entry = listing(contents)
    set_list(entry, sorted([*entry["response"]["ex_dates"], EX_DATE]))
    entry["dividends"].append(dividend(entry))
    extension(contents)["dividends"].append(dividend(entry))
    count(contents, metric_of(contents), AMOUNT)


def then(*changes):
    """Return the payment with further changes."""
    return all_of(paid, *changes)


def paid_by_the_benchmark(contents):
    """The benchmark paid a dividend, which was read, counted and held."""
    entry = [one for one in contents if is_list_of_benchmark(one)][1]
    set_list(entry, sorted([*entry["response"]["ex_dates"], EX_DATE_OF_BENCHMARK]))
    row = dividend(entry, ex_date=EX_DATE_OF_BENCHMARK)
    entry["dividends"].append(row)
    added = extension(contents)
    added["dividends"].append(dict(row))
    checkpoint = added["checkpoint"]
    batch = entry_of(contents, "BATCH", run_date=SECOND)["batch"]
    first = Decimal(batch["benchmark_initial_price"])
    with localcontext(returns.DECIMAL_CONTEXT):
        last = Decimal(checkpoint["benchmark_price"]) * Decimal(
            checkpoint["benchmark_split_factor"]
        )
        total = (last + Decimal(AMOUNT) - first) / first * 100
    checkpoint["benchmark_dividends"] = AMOUNT
    checkpoint["benchmark_total_return_pct"] = returns.format_decimal(total)
    for ticker in (PICK, OTHER_PICK, NEXT_PICK):
        count(contents, metric_of(contents, ticker), "0", ticker=ticker)


def amount_of_the_reading(contents):
    for entry in (listing(contents), extension(contents)):
        entry["dividends"][0]["amount"] = "0.5000"


def amount_of_one_reading(contents):
    listing(contents)["dividends"][0]["amount"] = "0.5000"


def withdrawal(contents) -> Content:
    """Return the READINGS entry of a response without the dividend, which withdraws it."""
    entry = listed_again(contents, listing(contents)["response"]["ex_dates"])
    set_list(entry, [day for day in entry["response"]["ex_dates"] if day != EX_DATE])
    entry["dividends"] = [dividend(entry, amount="0")]
    return entry


def withdrawn(contents):
    contents.insert(contents.index(listing(contents, NEXT_PICK)) + 1, withdrawal(contents))


def not_counted(contents):
    extension(contents)["dividends"] = []
    count(contents, metric_of(contents), "0")


def silently_withdrawn(contents):
    """A later response lacks the dividend, but it stays in force."""
    withdrawn(contents)
    place = contents.index(listing(contents, NEXT_PICK)) + 1
    contents[place]["dividends"] = []


def listing_removed(ticker: str):
    def change(contents):
        contents.remove(listing(contents, ticker))

    return change


def benchmark_unread(contents):
    """The dividends of the benchmark were not read again after the second Monday's result."""
    contents.remove([one for one in contents if is_list_of_benchmark(one)][1])


def is_list_of_benchmark(content: Content) -> bool:
    response = content.get("response", {})
    return (response.get("kind"), response.get("ticker")) == ("DIVIDENDS", "SPY")


def read_early(contents):
    """The response was read on the last day of the holding."""
    entry = listing(contents, OTHER_PICK)
    contents.remove(entry)
    entry["at"] = entry["response"]["read_at"] = READ_EARLY
    place = next(i for i, one in enumerate(contents) if one["at"] > READ_EARLY)
    contents.insert(place, entry)


def of_the_day_before(contents):
    """The total return is that of the day before the result."""
    taken = entry_of(contents, "CHECKPOINT", run_date=SECOND, day=DAY_BEFORE)
    entry = extension(contents)
    checkpoint = deepcopy(taken["checkpoint"])
    checkpoint["benchmark_dividends"] = "0"
    checkpoint["benchmark_total_return_pct"] = checkpoint["benchmark_return_pct"]
    checkpoint["benchmark_spin_off_counted_once"] = "false"
    metrics = deepcopy(taken["metrics"])
    for row in metrics:
        row["dividends"] = "0"
        row["total_return_pct"] = row["absolute_return_pct"]
        row["vs_benchmark_total_pct"] = row["vs_benchmark_pct"]
        row[SPIN_OFF] = "false"
    entry["checkpoint"], entry["metrics"] = checkpoint, metrics


def of_an_active_batch(contents):
    """The total return is added before the last checkpoint is taken."""
    entry = extension(contents)
    contents.remove(entry)
    last = entry_of(contents, "CHECKPOINT", run_date=SECOND, day="14")
    entry["at"] = last["at"]
    contents.insert(contents.index(last), entry)


def checkpoint_at_its_first_mention(contents):
    taken = entry_of(contents, "CHECKPOINT", run_date=SECOND, day=RESULT_DAY)
    for name in OF_BENCHMARK:
        taken["checkpoint"][name] = extension(contents)["checkpoint"][name]


def metric_at_its_first_mention(contents):
    taken = entry_of(contents, "CHECKPOINT", run_date=SECOND, day=RESULT_DAY)
    entry = extension(contents)
    taken["checkpoint"] = deepcopy(entry["checkpoint"])
    taken["metrics"] = deepcopy(entry["metrics"])


def added_twice(contents):
    entry = extension(contents)
    contents.insert(contents.index(entry) + 1, deepcopy(entry))


def added_nothing(contents):
    entry = extension(contents)
    again = {**deepcopy(entry), "metrics": [], "dividends": []}
    contents.insert(contents.index(entry) + 1, again)


def in_two_entries(contents):
    """One metric gets its total return by a later entry."""
    entry = extension(contents)
    later = deepcopy(entry)
    later["at"] = shifted(entry["at"], hours=1)
    later["metrics"] = [row for row in entry["metrics"] if row is not metric_of(contents)]
    entry["metrics"] = [metric_of(contents)]
    later["dividends"] = []
    place = next(i for i, one in enumerate(contents) if one["at"] > later["at"])
    contents.insert(place, later)


def later_extension(contents) -> Content:
    """Return the second EXTENSION entry of the Monday."""
    first = extension(contents)
    after = contents[contents.index(first) + 1 :]
    return entry_of([*entries_of_batches(contents), *after], "EXTENSION", run_date=SECOND)


def entries_of_batches(contents) -> list[Content]:
    return [content for content in contents if content["kind"] == "BATCH"]


def other_zeros(contents):
    in_two_entries(contents)
    later_extension(contents)["checkpoint"]["benchmark_dividends"] = "0.0"


def held_and_not_counted(contents):
    """The entry holds a dividend of the day of the baseline."""
    entry = listing(contents)
    set_list(entry, sorted([*entry["response"]["ex_dates"], BASELINE]))
    early = dividend(entry, ex_date=BASELINE)
    entry["dividends"].append(early)
    extension(contents)["dividends"].append(dict(early))


def counted_of_the_baseline(contents):
    """A dividend of the day of the baseline counts, as if it were received."""
    held_and_not_counted(contents)
    count(contents, metric_of(contents), AMOUNT)


def counted_and_not_held(contents):
    extension(contents)["dividends"] = []


def held_and_never_read(contents):
    """The entry holds and counts a dividend that no READINGS entry has."""
    entry = listing(contents)
    set_list(entry, sorted([*entry["response"]["ex_dates"], EX_DATE]))
    extension(contents)["dividends"].append(dividend(entry))
    count(contents, metric_of(contents), AMOUNT)


def listed_without_amount(contents):
    """A dividend of the holding is listed, but its amount is not known."""
    entry = listing(contents)
    set_list(entry, sorted([*entry["response"]["ex_dates"], EX_DATE]))


def ex_dates(change):
    """Return a change of the ex-dates of a response."""

    def change_them(contents):
        response = listing(contents)["response"]
        response["ex_dates"] = change(response["ex_dates"])

    return change_them


def of_response(**values: object):
    """Return a change of some members of a response; None removes one."""

    def change(contents):
        response = listing(contents)["response"]
        for name, value in values.items():
            response.pop(name, None)
            if value is not None:
                response[name] = value

    return change


def no_list(contents):
    del listing(contents)["dividends"]


def dividends_of_closes(contents):
    for content in contents:
        if content.get("response", {}).get("kind") == "CLOSES":
            content["dividends"] = []
            return


def dividend_of_the_future(contents):
    entry = listing(contents)
    entry["dividends"].append(dividend(entry, ex_date=entry["response"]["ex_dates"][-1]))


def dividend_of_another_ticker(contents):
    entry = listing(contents)
    entry["dividends"].append({**dividend(entry), "ticker": OTHER_PICK})


def listed_and_withdrawn(contents):
    entry = listing(contents)
    past = entry["response"]["ex_dates"][-2]
    entry["dividends"].append(dividend(entry, ex_date=past, amount="0"))


def dividend_twice(contents):
    """A READINGS entry mentions a dividend that an earlier one mentions."""
    again = deepcopy(listing(contents))
    contents.insert(contents.index(listing(contents)) + 1, again)


def dividend_not_listed(contents):
    entry = listing(contents)
    entry["dividends"].append(dividend(entry))


def in_metric(**values: str | None):
    """Return a change of the total return of the pick."""

    def change(contents):
        row = metric_of(contents)
        for name, value in values.items():
            row.pop(name, None)
            if value is not None:
                row[name] = value

    return change


def in_checkpoint(**values: str | None):
    """Return a change of the checkpoint with a total return."""

    def change(contents):
        row = extension(contents)["checkpoint"]
        for name, value in values.items():
            row.pop(name, None)
            if value is not None:
                row[name] = value

    return change


def compared_by_prices(contents):
    row = metric_of(contents)
    row["vs_benchmark_total_pct"] = row["vs_benchmark_pct"]


def taken_later(contents):
    row = extension(contents)["checkpoint"]
    row["taken_at"] = shifted(row["taken_at"], seconds=1)


def no_total_of_the_benchmark(contents):
    row = extension(contents)["checkpoint"]
    for name in OF_BENCHMARK:
        del row[name]


def another_checkpoint(contents):
    extension(contents)["checkpoint"]["id"] = forged_id("a checkpoint")


def another_metric(contents):
    metric_of(contents)["id"] = forged_id("a metric")


def metric_of_the_first_monday(contents):
    metrics = extension(contents)["metrics"]
    metrics.append(deepcopy(extension(contents, FIRST)["metrics"][0]))


def metric_twice(contents):
    metrics = extension(contents)["metrics"]
    metrics.append(deepcopy(metrics[0]))


def with_closes(contents):
    extension(contents)["closes"] = []


def without_dividends(contents):
    del extension(contents)["dividends"]


def dividends_of_a_checkpoint(contents):
    entry_of(contents, "CHECKPOINT", run_date=SECOND, day=RESULT_DAY)["dividends"] = []


def in_an_unsealed_record(contents):
    """A version before the sealing adds a total return."""
    entry = deepcopy(extension(contents))
    late = sealed_late(contents, len(contents))
    place = next(i for i, one in enumerate(late) if one["kind"] == "GENESIS")
    entry["at"] = late[place]["at"]
    late.insert(place, entry)
    return late


# --- Corrections -----------------------------------------------------------


def correction(contents, entry: Content, dividends: list[dict[str, str]]) -> Content:
    """
    Return a CORRECTION of the pick's total return, with the dividends that it counts.

    `entry` is the READINGS entry before it.
    """
    at = shifted(entry["at"], seconds=1)
    was = metric_of(contents)
    now = dict(was)
    total = sum((Decimal(one["amount"]) for one in dividends), Decimal(0))
    count(contents, now, returns.format_decimal(total))
    changes = [
        {
            "id": forged_id(column),
            "checkpoint_id": was["checkpoint_id"],
            "field": column,
            "ticker": PICK,
            "before": was[column],
            "after": now[column],
            "reason": "The provider listed a dividend late.",
            "made_at": at,
        }
        for column in OF_TOTAL_RETURN
    ]
    return {
        "kind": "CORRECTION",
        "at": at,
        "checkpoint": deepcopy(extension(contents)["checkpoint"]),
        "corrections": changes,
        "metrics": [now],
        "dividends": dividends,
    }


def listed_late(contents) -> Content:
    """Insert the response that lists the dividend after its holding got a total return."""
    again = listed_again(contents, listing(contents)["response"]["ex_dates"], hours=24)
    set_list(again, sorted([*again["response"]["ex_dates"], EX_DATE]))
    again["dividends"] = [dividend(again)]
    place = next(i for i, one in enumerate(contents) if one["at"] > again["at"])
    contents.insert(place, again)
    return again


def never_corrected(contents):
    listed_late(contents)


def corrected_late(contents):
    """A dividend is listed late, and the total return is corrected."""
    again = listed_late(contents)
    held = [dict(row) for row in again["dividends"]]
    place = contents.index(again) + 1
    contents.insert(place, correction(contents, again, held))


def correction_in(contents) -> Content:
    return next(content for content in contents if content["kind"] == "CORRECTION")


def correction_without_dividends(contents):
    corrected_late(contents)
    del correction_in(contents)["dividends"]


def correction_of_one_column_less(contents):
    corrected_late(contents)
    del correction_in(contents)["corrections"][0]


def correction_that_adds(contents):
    """A CORRECTION gives a metric its first total return."""
    entry = extension(contents)
    row = metric_of(contents)
    new = {name: row[name] for name in (*OF_TOTAL_RETURN, SPIN_OFF)}
    at = shifted(entry["at"], hours=1)
    example = {"checkpoint_id": row["checkpoint_id"], "ticker": PICK, "made_at": at}
    changes = [
        {**example, "id": forged_id(name), "field": name, "after": value, "reason": "Added."}
        for name, value in new.items()
    ]
    place = next(i for i, one in enumerate(contents) if one["at"] > at)
    contents.insert(
        place,
        {
            "kind": "CORRECTION",
            "at": at,
            "checkpoint": deepcopy(entry["checkpoint"]),
            "corrections": changes,
            "metrics": [dict(row)],
            "dividends": [],
        },
    )
    entry["metrics"] = [one for one in entry["metrics"] if one is not row]


def changed_by_an_extension(contents):
    """The late dividend is counted by another EXTENSION, without a correction."""
    again = listed_late(contents)
    entry = deepcopy(extension(contents))
    entry["at"] = shifted(again["at"], seconds=1)
    row = next(one for one in entry["metrics"] if one["id"] == metric_of(contents)["id"])
    count(contents, row, AMOUNT)
    entry["metrics"] = [row]
    entry["dividends"] = [dict(one) for one in again["dividends"]]
    contents.insert(contents.index(again) + 1, entry)


def corrected_by_an_earlier_version(contents):
    """Version 0.4.0 corrects a price. Its rows leave out the columns of a total return."""
    was, added = metric_of(contents), extension(contents)
    used = next(
        content
        for content in contents
        if any(row["id"] == was["close_id"] for row in content.get("closes", []))
    )
    read = deepcopy(used)
    read["at"] = read["response"]["read_at"] = shifted(added["at"], hours=3)
    close = next(row for row in read["closes"] if row["id"] == was["close_id"])
    close["id"], close["read_at"] = forged_id("a close"), read["at"]
    close["close"] = str(Decimal(close["close"]) + 1)
    read["closes"] = [close]
    checkpoint, now = dict(added["checkpoint"]), {**was, "close_id": close["id"]}
    at = shifted(read["at"], seconds=1)
    example = {
        "id": forged_id("a correction"),
        "checkpoint_id": checkpoint["id"],
        "field": "close_id",
        "ticker": PICK,
        "before": was["close_id"],
        "after": now["close_id"],
        "reason": "The close was revised.",
        "made_at": at,
    }
    entry = {
        "kind": "CORRECTION",
        "at": at,
        "checkpoint": checkpoint,
        "metrics": [now],
        "corrections": [example],
        "closes": [dict(close)],
        "splits": [],
    }
    place = next(i for i, one in enumerate(contents) if one["at"] > at)
    contents[place:place] = [read, entry]
    contents[:] = refigured(contents)
    for row, columns in ((checkpoint, OF_BENCHMARK), (now, (*OF_TOTAL_RETURN, SPIN_OFF))):
        for column in columns:
            del row[column]


def stated_in_part(missing_column: str):
    """Return a change: a CORRECTION makes a total return higher, and leaves one column out."""

    def change(contents):
        was, added = metric_of(contents), extension(contents)
        entry = correction(contents, {"at": shifted(added["at"], hours=2)}, [])
        now = entry["metrics"][0]
        wrong = [
            name
            for name in ("total_return_pct", "vs_benchmark_total_pct")
            if name != missing_column
        ]
        for name in wrong:
            now[name] = returns.format_decimal(Decimal(was[name]) + 50)
        del now[missing_column]
        entry["corrections"] = [one for one in entry["corrections"] if one["field"] in wrong]
        for one in entry["corrections"]:
            one["after"] = now[one["field"]]
        place = next((i for i, one in enumerate(contents) if one["at"] > entry["at"]), None)
        contents.insert(len(contents) if place is None else place, entry)

    return change


# --- Missing total returns -------------------------------------------------


def with_later_entries(*, days: int):
    """Return a change that lets the record go on: two responses, so many days after the result."""

    def change(contents):
        known = extension(contents)["at"]
        contents += [later_list(contents, shifted(known, days=days + later)) for later in (0, 2)]

    return change


def later_list(contents, at: str) -> Content:
    """Return a READINGS entry about a ticker without dividends."""
    entry = deepcopy(listing(contents, OTHER_PICK))
    entry["at"] = entry["response"]["read_at"] = at
    return entry


def never_added(contents):
    contents.remove(extension(contents))


def not_added_to_a_metric(contents):
    row = metric_of(contents)
    entry = extension(contents)
    entry["metrics"] = [one for one in entry["metrics"] if one is not row]


def missing(change, *, days: int):
    """Return a change after which a total return is missing, in a record that goes on."""
    return all_of(with_later_entries(days=days), change)


FIVE_WEEKS = 35
# A total return is due 29 days after the day up to which the entries are long over.
ALMOST_DUE = 28

FORGERIES = [
    pytest.param(rule, change, id=f"{rule}: {name}")
    for rule, name, change in [
        ("dividend-listed", "silently withdrawn", then(silently_withdrawn)),
        ("total-return", "another amount", then(amount_of_the_reading)),
        ("unchanged", "another amount when it was read", then(amount_of_one_reading)),
        ("total-return", "withdrawn and counted", then(withdrawn)),
        ("total-return", "not counted", then(not_counted)),
        ("total-return", "no response about a pick", listing_removed(OTHER_PICK)),
        ("total-return", "no response about the benchmark", benchmark_unread),
        ("total-return", "read on the last day", read_early),
        ("total-return", "of the day before", of_the_day_before),
        ("total-return", "of an active batch", of_an_active_batch),
        ("total-return", "a checkpoint at once", checkpoint_at_its_first_mention),
        ("total-return", "a metric at once", metric_at_its_first_mention),
        ("total-return", "twice", added_twice),
        ("total-return", "nothing", added_nothing),
        ("total-return", "held and not counted", held_and_not_counted),
        ("total-return", "of the baseline", counted_of_the_baseline),
        ("total-return", "counted and not held", then(counted_and_not_held)),
        ("total-return", "listed without an amount", listed_without_amount),
        ("total-return", "less than all columns", in_metric(spin_off_counted_once=None)),
        ("total-return", "a spin-off without a split", in_metric(spin_off_counted_once="true")),
        ("total-return", "another sum", in_metric(dividends="0.4")),
        ("total-return", "another figure", in_metric(total_return_pct="9")),
        ("total-return", "against the prices alone", then(compared_by_prices)),
        ("total-return", "dividends of the benchmark", in_checkpoint(benchmark_dividends="1")),
        ("total-return", "none of the benchmark", no_total_of_the_benchmark),
        ("total-return", "in an unsealed record", in_an_unsealed_record),
        ("total-return", "listed late and not counted", never_corrected),
        ("total-return", "changed by an extension", changed_by_an_extension),
        ("total-return", "a correction without dividends", correction_without_dividends),
        ("corrected", "one column less", correction_of_one_column_less),
        (
            "total-return",
            "left out for five weeks",
            all_of(corrected_by_an_earlier_version, with_later_entries(days=FIVE_WEEKS)),
        ),
        *(
            ("total-return", f"stated without {column}", stated_in_part(column))
            for column in (*OF_TOTAL_RETURN, SPIN_OFF)
        ),
        ("every-total", "never added", missing(never_added, days=FIVE_WEEKS)),
        ("every-total", "not added to a metric", missing(not_added_to_a_metric, days=FIVE_WEEKS)),
        ("readings", "not in order", ex_dates(lambda days: [*days[1:], days[0]])),
        ("readings", "a day twice", ex_dates(lambda days: [days[0], *days])),
        ("readings", "another first day", of_response(first_session="2020-01-03")),
        ("readings", "no days", of_response(first_session=None, last_session=None)),
        ("readings", "no ex-dates", of_response(ex_dates=None)),
        ("readings", "no list", no_list),
        ("readings", "dividends of closes", dividends_of_closes),
        ("readings", "of the future", dividend_of_the_future),
        ("readings", "of another ticker", dividend_of_another_ticker),
        ("readings", "listed and withdrawn", listed_and_withdrawn),
        ("readings", "not listed", dividend_not_listed),
        ("readings", "read twice", then(dividend_twice)),
        ("readings", "never read", held_and_never_read),
        ("first-mention", "a checkpoint", another_checkpoint),
        ("first-mention", "a metric", another_metric),
        ("belongs", "a metric of another Monday", metric_of_the_first_monday),
        ("members", "a metric twice", metric_twice),
        ("members", "with closes", with_closes),
        ("members", "without dividends", without_dividends),
        ("members", "dividends of a checkpoint", dividends_of_a_checkpoint),
        ("unchanged", "taken later", taken_later),
        ("computed", "a note", in_checkpoint(note="Good.")),
        ("unchanged", "other zeros", other_zeros),
        ("row-form", "a negative amount", in_metric(dividends="-1")),
        ("row-form", "no number", in_metric(total_return_pct="NaN")),
        ("row-form", "no boolean", in_metric(spin_off_counted_once="no")),
        ("row-form", "ex-dates in one text", of_response(ex_dates="2026-10-15")),
        ("row-form", "no date", ex_dates(lambda days: [*days, "soon"])),
    ]
]


@pytest.mark.parametrize(("rule", "change"), one_of_each_rule(FORGERIES))
async def test_a_forgery_of_total_returns(as_recorded, create, rule, change):
    await check_forgery(copy_of(as_recorded, create), change, rule)


async def test_a_total_return_that_a_correction_adds(as_recorded, create):
    """Only an EXTENSION adds a total return."""
    await check_forgery(copy_of(as_recorded, create), correction_that_adds, "total-return")


HELD_ONCE = all_of(paid_by_the_benchmark, in_two_entries)


async def test_a_dividend_of_the_benchmark_is_held_once(as_recorded, create):
    """A later entry holds only what the metrics count to which it adds a total return."""
    copy = copy_of(as_recorded, create)
    forge(copy, HELD_ONCE)
    assert await discrepancies_of(copy) == []


# --- Records that fit ------------------------------------------------------


FITTING = [
    pytest.param(paid, id="a dividend"),
    pytest.param(paid_by_the_benchmark, id="a dividend of the benchmark"),
    pytest.param(corrected_by_an_earlier_version, id="a correction of version 0.4.0"),
    pytest.param(then(withdrawn, not_counted), id="a dividend that was withdrawn"),
    pytest.param(then(in_two_entries), id="a metric by a later entry"),
    pytest.param(corrected_late, id="a dividend that was listed late"),
    pytest.param(never_added, id="a total return that is not due yet"),
    pytest.param(missing(never_added, days=ALMOST_DUE), id="a total return that is almost due"),
    pytest.param(
        missing(
            all_of(
                never_added,
                listing_removed(PICK),
                listing_removed(OTHER_PICK),
                listing_removed(NEXT_PICK),
                benchmark_unread,
            ),
            days=FIVE_WEEKS,
        ),
        id="dividends that are not known",
    ),
]


@pytest.mark.parametrize("change", FITTING)
@pytest.mark.sampled(2)
async def test_total_returns_that_fit(as_recorded, create, change):
    copy = copy_of(as_recorded, create)
    forge(copy, change)
    assert await discrepancies_of(copy) == []


async def test_a_dividend_without_the_journal(as_recorded, create):
    """Each reading of a dividend is mentioned."""
    copy = copy_of(as_recorded, create)
    changed(
        copy,
        "INSERT INTO dividends (ticker, ex_date, amount, source, read_at) VALUES "
        f"('{PICK}', '{EX_DATE}', {AMOUNT}, 'alphavantage DIVIDENDS', '2026-10-25 20:00Z')",
    )
    found = await discrepancies_of(copy)
    assert found, "nothing was found"
    for text in found:
        assert text.endswith("(rule: row)"), text

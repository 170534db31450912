"""
The rules of sealed records: their declarations, claims, readings and calendar.

Each forgery is a rewritten record, chain and rows, that only the named rule detects. The cheats of
an owner who changes the record afterwards are among them.
"""

from copy import deepcopy
from decimal import Decimal

import psycopg
import pytest
from eventful import eventful_as_recorded
from forging import all_of, forged_id, refigured, removed
from job_context import clock, harness, run_until_done
from record_server import as_recorded, changed, copy_of, rehearsed, without_triggers
from sealing import is_claim, sealed_late
from tampering import Content, entry_of, forge, one_of_each_rule, shifted

from app.domain import calendar, journal
from app.domain.declarations import sha256_of
from jobs import corrections, daily
from tests.integration.domain.test_rules import check_forgery, discrepancies_of

__all__ = ["as_recorded", "clock", "eventful_as_recorded", "harness", "rehearsed"]

# The Mondays of the rehearsal, and a Wednesday in the first week of the second.
FIRST, SECOND, THIRD = "2026-10-05", "2026-10-12", "2026-10-19"
DAY, BEFORE, AFTER = "2026-10-14", "2026-10-13", "2026-10-15"


def of_kind(contents, kind: str) -> list[Content]:
    return [content for content in contents if content["kind"] == kind]


def claim_of(contents, run_date=SECOND) -> Content:
    return next(
        one for one in contents if is_claim(one) and one["generation"]["run_date"] == run_date
    )


def completion_of(contents, run_date=SECOND) -> Content:
    return next(
        one
        for one in of_kind(contents, "GENERATION")
        if not is_claim(one) and one["generation"]["run_date"] == run_date
    )


def readings_of(contents, day: str, ticker="SPY") -> Content:
    """Return the first READINGS entry with a close of a ticker and a day."""
    for content in of_kind(contents, "READINGS"):
        for row in content["closes"]:
            if (row["ticker"], row["trading_day"]) == (ticker, day):
                return content
    raise LookupError(day)


def a_response(contents) -> Content:
    """Return the READINGS entry of a close that a figure uses."""
    return readings_of(contents, DAY)


def member(kind: str, held_in: str, nth=0, /, **values: object):
    """Return a change of some values of a member; None removes a value."""

    def change(contents):
        held = of_kind(contents, kind)[nth][held_in]
        for column, value in values.items():
            held.pop(column, None)
            if value is not None:
                held[column] = value

    return change


def questions(**values: str | None):
    """Return a change of the second Monday's question in both mentions."""

    def change(contents):
        for content in (claim_of(contents), completion_of(contents)):
            for column, value in values.items():
                content["generation"].pop(column, None)
                if value is not None:
                    content["generation"][column] = value

    return change


def claimed(**values: str):
    """Return a change of the claim of the second Monday's question."""

    def change(contents):
        claim_of(contents)["generation"].update(values)

    return change


def response(**values: str | None):
    """Return a change of the response of a close."""

    def change(contents):
        held = a_response(contents)["response"]
        for column, value in values.items():
            held.pop(column, None)
            if value is not None:
                held[column] = value

    return change


def settings_entry(contents, **values: object) -> Content:
    """Return a SETTINGS entry with the first settings, and some others."""
    return {
        "kind": "SETTINGS",
        "at": claim_of(contents)["at"],
        "settings": {**deepcopy(contents[0]["settings"]), **values},
    }


def settings_inserted(**values: object):
    """Return a change that inserts a SETTINGS entry before the second Monday."""

    def change(contents):
        entry = settings_entry(contents, **values)
        contents.insert(contents.index(claim_of(contents)), entry)

    return change


def series_inserted(**values: object):
    """Return a change that inserts a SERIES entry before the second Monday."""

    def change(contents):
        entry = deepcopy(contents[1])
        entry["at"] = claim_of(contents)["at"]
        entry["series"].update(values)
        contents.insert(contents.index(claim_of(contents)), entry)

    return change


def another_profile(contents, **values: str) -> None:
    """Change the profile of the SERIES entry, with a hash that fits."""
    series = contents[1]["series"]
    series["profile"].update(values)
    series["profile_sha256"] = sha256_of(journal.canonical_json(series["profile"]))


def with_profile(**values: str):
    return lambda contents: another_profile(contents, **values)


# --- Where the record comes from -------------------------------------------


def second_genesis(contents):
    contents.insert(9, deepcopy(contents[0]))


def genesis_removed(contents):
    return contents[1:]


def declarations_removed(contents):
    return contents[2:]


def genesis_after_the_series(contents):
    contents[0], contents[1] = contents[1], contents[0]


def adopted_later(contents):
    entry = a_response(contents)
    del entry["response"]
    entry.update(adopted="true", generations=[])


def sealed_twice(contents):
    contents.insert(9, {**settings_entry(contents), "sealed": "true", "at": contents[8]["at"]})


def middle(contents) -> int:
    """Return the index of the first entry after the second Monday's batch."""
    return contents.index(entry_of(contents, "BATCH", run_date=SECOND)) + 1


def late(contents):
    return sealed_late(contents, middle(contents))


def then(change):
    """Return a change of the same record, sealed late."""

    def changed_late(contents):
        contents = late(contents)
        return change(contents) or contents

    return changed_late


def never_sealed(contents):
    place = contents.index(of_kind(contents, "SETTINGS")[0])
    return [*contents[:place], *contents[place + 1 :]]


def cut_before_the_seal(contents):
    return contents[: contents.index(of_kind(contents, "SETTINGS")[0])]


def between(contents):
    """Put a batch between the late GENESIS and its settings."""
    place = contents.index(of_kind(contents, "GENESIS")[0])
    contents.insert(place, contents.pop(place - 1))


# --- Claims and questions --------------------------------------------------


def no_claim(contents):
    contents.remove(claim_of(contents))


def no_claims(contents):
    left = [content for content in contents if not is_claim(content)]
    # The declarations have the time of the entry that follows them.
    for declaration in left[:2]:
        declaration["at"] = left[2]["at"]
    return left


def asked_again(contents):
    """Withhold the first answer: the completion of a second question takes its place."""
    claim, completion = claim_of(contents), completion_of(contents)
    second = deepcopy(claim)
    second["generation"].update(id=forged_id("again"), attempt="2")
    completion["generation"].update(id=forged_id("again"), attempt="2")
    contents.insert(contents.index(claim) + 1, second)


def withheld(contents):
    """Ask again, and remove the first question."""
    asked_again(contents)
    contents.remove(claim_of(contents))


def question_inserted(contents):
    """Put a question before that of a Monday: another answer that was refused."""
    claim, completion = claim_of(contents), completion_of(contents)
    place = contents.index(claim)
    inserted = [deepcopy(claim), deepcopy(completion)]
    for entry in inserted:
        entry["generation"]["id"] = forged_id("inserted")
    inserted[1]["generation"].update(answer="{}", accepted="false", refusal="It has no picks.")
    return [*contents[:place], *inserted, *contents[place:]]


def claimed_later(contents):
    claim_of(contents)["at"] = shifted(claim_of(contents)["at"], seconds=1)


def answered_before_it_was_asked(contents):
    question = completion_of(contents)["generation"]
    question["answered_at"] = shifted(question["asked_at"], minutes=-5)


# --- Readings --------------------------------------------------------------


def response_removed(contents):
    contents.remove(a_response(contents))


def response_moved(contents):
    """Put the entry of a response after the checkpoint that uses it."""
    entry = a_response(contents)
    contents.remove(entry)
    contents.insert(contents.index(entry_of(contents, "CHECKPOINT", day="10")) + 1, entry)


def response_twice(contents):
    entry = a_response(contents)
    contents.insert(contents.index(entry) + 1, deepcopy(entry))


def another_reading(contents):
    """Let a checkpoint use a reading that was put in afterwards."""
    checkpoint = entry_of(contents, "CHECKPOINT", run_date=SECOND, day="3")
    metric = checkpoint["metrics"][0]
    close = next(one for one in checkpoint["closes"] if one["id"] == metric["close_id"])
    close["id"] = metric["close_id"] = forged_id("reading")
    close["close"] = str(Decimal(close["close"]) + 1)


def reading_of_another_ticker(contents):
    a_response(contents)["response"]["ticker"] = "QQQ"


def a_split_among_closes(contents):
    entry = a_response(contents)
    entry["splits"] = [
        {
            "ticker": "SPY",
            "effective_date": BEFORE,
            "factor": "1",
            "source": entry["response"]["source"],
            "read_at": entry["at"],
        }
    ]


def rates_of(contents) -> Content:
    """Return the first READINGS entry with rates."""
    return next(one for one in of_kind(contents, "READINGS") if one.get("rates"))


def rates(**values: str):
    """Return a change of the first rate."""

    def change(contents):
        rates_of(contents)["rates"][0].update(values)

    return change


def rates_with_a_ticker(contents):
    rates_of(contents)["response"]["ticker"] = "SPY"


def rates_of_a_day(contents):
    """Let the response begin after its first rate."""
    entry = rates_of(contents)
    entry["response"]["first_session"] = entry["rates"][1]["observed_on"]


def rates_among_closes(contents):
    a_response(contents)["rates"] = []


def closes_among_rates(contents):
    rates_of(contents)["response"].update(kind="CLOSES", ticker="SPY")


def no_rates(contents):
    del rates_of(contents)["rates"]


def rates_read_twice(contents):
    """Let the next response state a rate that the first one already has."""
    first = rates_of(contents)
    entries = [one for one in of_kind(contents, "READINGS") if "rates" in one and one is not first]
    entries[0]["rates"].append(first["rates"][0])


def neither(contents):
    del a_response(contents)["response"]


def changed_in_its_checkpoint(contents):
    """Change a reading where the checkpoint uses it, and not where it was read."""
    checkpoint = entry_of(contents, "CHECKPOINT", run_date=SECOND, day="3")
    close = next(one for one in checkpoint["closes"] if one["ticker"] == "SPY")
    close["close"] = str(Decimal(close["close"]) + 1)


# --- The calendar ----------------------------------------------------------


def struck_off(*days: str, at=FIRST):
    """Return a change that strikes days off before the batch of a Monday."""

    def change(contents):
        first = contents[0]["settings"]
        listed = sorted({*first["days_without_session"], *days})
        entry = settings_entry(contents, days_without_session=listed, closed_days=sorted(days))
        place = contents.index(claim_of(contents, at))
        entry["at"] = contents[place]["at"]
        contents.insert(place, entry)

    return change


def skipped(day: str, reason="MARKET_CLOSED"):
    """Return a change that skips the checkpoints of a session."""

    def change(contents):
        for content in of_kind(contents, "CHECKPOINT"):
            row = content["checkpoint"]
            if row.get("trading_day") == day:
                names = ("batch_id", "checkpoint_date", "day", "id", "taken_at")
                kept = {name: row[name] for name in names}
                kept.update(status="skipped", skip_reason=reason, skipped_at=row["taken_at"])
                content.update(checkpoint=kept, metrics=[], closes=[])
                content.pop("splits", None)

    return change


def unread(day: str, before: str):
    """Return a change that removes each bar of a day: the responses end before it, or go on."""

    def change(contents):
        for content in of_kind(contents, "READINGS"):
            content["closes"] = [row for row in content["closes"] if row["trading_day"] != day]
            if content.get("response", {}).get("last_session") == day:
                content["response"]["last_session"] = before

    return change


def never_covered(contents):
    """Let every response about the benchmark begin after the day."""
    for content in of_kind(contents, "READINGS"):
        body = content["response"]
        if body.get("ticker") == "SPY" and body.get("last_session", "") > DAY:
            body["first_session"] = body["last_session"]


def covered_beforehand(contents):
    """Let a response that was read before the day claim to go on after it."""
    for content in of_kind(contents, "READINGS"):
        body = content["response"]
        if body.get("ticker") == "SPY" and body.get("last_session", AFTER) < DAY:
            body["last_session"] = AFTER


def changed_at(index: int, at: str):
    """Return a change of the time of an entry."""

    def change(contents):
        contents[index]["at"] = at

    return change


def changed_settings_at(seconds: int):
    """Return a change that inserts a SETTINGS entry at another time than the claim after it."""

    def change(contents):
        settings_inserted(version="9.9.9")(contents)
        entry = of_kind(contents, "SETTINGS")[0]
        entry["at"] = shifted(entry["at"], seconds=seconds)

    return change


def changed_seal_at(contents):
    """Let the last entry of a seal be a second later than the others."""
    marker = next(one for one in contents if "sealed" in one)
    marker["at"] = shifted(marker["at"], seconds=1)


def without_holiday(day: str, kind="GENESIS"):
    """Return a change that leaves a holiday out of the calendar."""

    def change(contents):
        listed = [one for one in contents[0]["settings"]["days_without_session"] if one != day]
        if kind == "GENESIS":
            contents[0]["settings"]["days_without_session"] = listed
        else:
            settings_inserted(days_without_session=listed)(contents)

    return change


def backdated(contents):
    """Let the record begin years ago, with a calendar that was never extended."""
    years = range(2019, 2023)
    held = {day for year in years for day in calendar.annual_holidays(year)}
    contents[0]["at"] = "2020-01-06T14:00:00.000000Z"
    contents[0]["settings"].update(
        calendar_from="2019-01-02",
        calendar_to="2022-12-31",
        days_without_session=sorted(str(day) for day in held if day.isoformat() > "2019-01-02"),
    )


def earlier_baseline(contents):
    """Let the second Monday begin at Thursday's closes, as if Friday had been no session."""
    thursday = {
        row["ticker"]: row
        for content in of_kind(contents, "READINGS")
        for row in content["closes"]
        if row["trading_day"] == "2026-10-08"
    }
    entry = entry_of(contents, "BATCH", run_date=SECOND)
    benchmark = thursday["SPY"]
    batch_id = entry["batch"]["id"]
    for content in contents:
        batch = content.get("batch")
        if batch and batch["id"] == batch_id:
            batch.update(trading_day="2026-10-08", benchmark_initial_close_id=benchmark["id"])
        for pick in content.get("picks", []):
            if pick["batch_id"] == batch_id:
                pick["initial_close_id"] = thursday[pick["ticker"]]["id"]
    entry["checkpoint"].update(trading_day="2026-10-08", benchmark_close_id=benchmark["id"])
    entry["checkpoint"]["benchmark_price"] = benchmark["close"]
    entry["closes"] = [benchmark, *(thursday[pick["ticker"]] for pick in entry["picks"])]


def stored_in_the_afternoon(contents):
    """Store the second Monday's batch at noon, and call it not late."""
    entry = entry_of(contents, "BATCH", run_date=SECOND)
    at = shifted(entry["at"], hours=3)
    for content in contents:
        if content.get("batch", {}).get("id") == entry["batch"]["id"]:
            content["batch"]["created_at"] = at
    entry["at"] = entry["checkpoint"]["taken_at"] = at


LAST_DAY = "9999-12-31"
EMPTY_HASH = sha256_of("")
# U+0000, which no text of the journal may have. A content has it in its escaped form.
NUL = "a\x00b"

FORGERIES = [
    pytest.param(rule, change, id=f"{rule}: {name}")
    for rule, name, change in [
        ("genesis", "twice", second_genesis),
        ("genesis", "removed", genesis_removed),
        ("profile", "no declarations", declarations_removed),
        ("genesis", "after the series", genesis_after_the_series),
        ("genesis", "another id", member("GENESIS", "genesis", record_id="A" * 32)),
        ("genesis", "a short id", member("GENESIS", "genesis", record_id="a" * 31)),
        ("genesis", "unknown origin", member("GENESIS", "genesis", origin="UNKNOWN")),
        ("genesis", "late without entries", member("GENESIS", "genesis", late="true")),
        ("genesis", "adopted later", adopted_later),
        ("genesis", "sealed twice", sealed_twice),
        ("genesis", "late and live", then(member("GENESIS", "genesis", origin="LIVE"))),
        ("genesis", "late, called early", then(member("GENESIS", "genesis", late="false"))),
        ("genesis", "never sealed", then(never_sealed)),
        ("genesis", "cut off before the seal", then(cut_before_the_seal)),
        ("genesis", "a checkpoint in between", then(between)),
        ("settings", "no version", member("GENESIS", "settings", version=" ")),
        ("settings", "no ticker", member("GENESIS", "settings", benchmark="spy")),
        ("settings", "an empty source", member("GENESIS", "settings", price_source="")),
        ("settings", "backwards", member("GENESIS", "settings", calendar_to="2026-10-01")),
        ("settings", "a Saturday", settings_inserted(days_without_session=["2026-11-28"])),
        ("settings", "a day before", settings_inserted(days_without_session=["2026-10-01"])),
        (
            "settings",
            "not in order",
            settings_inserted(days_without_session=["2026-12-25", "2026-11-26"]),
        ),
        ("settings", "a day twice", settings_inserted(closed_days=["2026-09-01", "2026-09-01"])),
        ("settings", "closed and not listed", settings_inserted(closed_days=[DAY])),
        ("settings", "nothing new", settings_inserted()),
        ("settings", "another beginning", settings_inserted(calendar_from="2026-10-01")),
        ("settings", "an earlier end", settings_inserted(calendar_to="2028-12-30")),
        ("settings", "begins late", member("GENESIS", "settings", calendar_from="2026-10-03")),
        ("settings", "ends a day early", member("GENESIS", "settings", calendar_to="2028-12-30")),
        ("at", "a backdated genesis", backdated),
        ("at", "a genesis of the same day", changed_at(0, "2026-10-05T15:00:00.000000Z")),
        ("settings", "a genesis of the day before", changed_at(0, "2026-10-04T13:00:00.000000Z")),
        ("at", "a series of a later year", changed_at(1, "2036-10-05T13:00:05.000000Z")),
        ("at", "a second before", changed_settings_at(seconds=-1)),
        ("at", "a second after", changed_settings_at(seconds=1)),
        ("at", "a seal at two times", then(changed_seal_at)),
        ("settings", "of the last year", changed_at(0, "9999-12-31T23:59:59.999999Z")),
        ("settings", "for the last Monday", claimed(run_date="9999-12-27")),
        ("settings", "until the last year", member("GENESIS", "settings", calendar_to=LAST_DAY)),
        ("settings", "no Thanksgiving", without_holiday("2026-11-26")),
        ("settings", "no Christmas", without_holiday("2026-12-25")),
        ("settings", "no Good Friday", without_holiday("2027-03-26")),
        ("settings", "no Juneteenth", without_holiday("2027-06-18")),
        ("settings", "no Independence Day", without_holiday("2027-07-05")),
        ("settings", "a holiday removed", without_holiday("2026-11-26", "SETTINGS")),
        ("settings", "a root in capitals", settings_inserted(timestamp_roots=["A" * 64])),
        ("settings", "another benchmark", settings_inserted(benchmark="QQQ")),
        ("canonical", "U+0000 in a version", member("GENESIS", "settings", version=NUL)),
        ("canonical", "U+0000 in a source", member("GENESIS", "settings", price_source=NUL)),
        ("canonical", "U+0000 in a label", member("SERIES", "series", label=NUL)),
        ("canonical", "U+0000 in a model", with_profile(model=NUL)),
        ("canonical", "U+0000 in a schema", with_profile(schema=NUL)),
        ("canonical", "U+0000 in a response", response(source=NUL)),
        ("canonical", "U+0000 in a name", lambda contents: contents[1].update({NUL: "x"})),
        ("series", "another model", member("SERIES", "series", label="x", profile_sha256="0" * 64)),
        (
            "series",
            "changed afterwards",
            lambda contents: contents[1]["series"]["profile"].update(model="gpt-9"),
        ),
        ("series", "a name in capitals", member("SERIES", "series", name="Main")),
        ("series", "no label", member("SERIES", "series", label=" ")),
        ("series", "from a Tuesday", member("SERIES", "series", holds_from="2026-10-06")),
        ("series", "nothing new", series_inserted()),
        ("series", "back in time", series_inserted(label="x", holds_from="2026-09-28")),
        ("series", "a hash in capitals", with_profile(system_prompt_sha256="A" * 64)),
        ("series", "no model", with_profile(model="")),
        ("profile", "none", questions(profile_sha256=None)),
        ("profile", "another", questions(profile_sha256=EMPTY_HASH)),
        ("profile", "another model", questions(requested_model="gpt-9")),
        ("profile", "another version", questions(prompt_version="1")),
        ("profile", "another prompt", questions(system_prompt="Choose well.")),
        ("profile", "a changed series", with_profile(model="gpt-9")),
        ("profile", "no series", lambda contents: [contents[0], *contents[2:]]),
        ("profile", "of a later Monday", member("SERIES", "series", holds_from=SECOND)),
        ("claim", "none", no_claim),
        ("claim", "none at all", no_claims),
        ("claim", "with an answer", claimed(answer="{}")),
        ("claim", "with its outcome", claimed(accepted="true")),
        ("claim", "with a refusal", claimed(refusal="No.")),
        ("claim", "with the tokens", claimed(prompt_tokens="12")),
        ("question-order", "asked again", asked_again),
        ("question-number", "withheld", withheld),
        ("question-number", "inserted", question_inserted),
        ("at", "claimed later", claimed_later),
        ("question-time", "answered before", answered_before_it_was_asked),
        ("unchanged", "another prompt", claimed(user_prompt="Something else.")),
        ("unchanged", "asked earlier", lambda c: asked_earlier(c)),
        ("readings", "removed", response_removed),
        ("readings", "after its use", response_moved),
        ("readings", "twice", response_twice),
        ("readings", "put in afterwards", all_of(another_reading, refigured)),
        ("readings", "of another ticker", reading_of_another_ticker),
        ("readings", "a split among closes", a_split_among_closes),
        ("readings", "no hash", response(sha256="abc")),
        ("readings", "another source", response(source="yahoo")),
        ("readings", "read at another time", response(read_at="2026-10-15T12:00:00.000000Z")),
        ("readings", "of a day before", response(first_session=AFTER, last_session=AFTER)),
        ("readings", "until the day after", response(last_session="2026-10-16")),
        ("readings", "until a Saturday", response(last_session="2026-10-17")),
        ("readings", "until the next session", response(last_session="2026-10-19")),
        ("readings", "until a year later", response(last_session="2027-10-15")),
        ("readings", "until the last year", response(last_session="9999-12-31")),
        (
            "readings",
            "closed before it was over",
            all_of(
                struck_off(DAY, at=SECOND),
                skipped(DAY),
                unread(DAY, BEFORE),
                never_covered,
                covered_beforehand,
            ),
        ),
        ("readings", "without an end", response(last_session=None)),
        ("readings", "without days", response(first_session=None, last_session=None)),
        ("readings", "rates with a ticker", rates_with_a_ticker),
        ("readings", "rates of a day before", rates_of_a_day),
        ("readings", "rates among closes", rates_among_closes),
        ("readings", "closes among rates", closes_among_rates),
        ("readings", "no rates", no_rates),
        ("readings", "rates twice", rates_read_twice),
        ("readings", "rates of another source", rates(source="yahoo")),
        ("readings", "rates read later", rates(read_at="2026-10-15T12:00:00.000000Z")),
        ("row-form", "no rate", rates(value_pct="NaN")),
        ("row-form", "a rate with an exponent", rates(value_pct="3e0")),
        ("unchanged", "a reading", all_of(changed_in_its_checkpoint, refigured)),
        ("members", "two kinds", lambda c: a_response(c).update(adopted="true", generations=[])),
        ("members", "neither", neither),
        ("members", "not sealed", lambda c: c.insert(9, not_sealed(c))),
        ("row-form", "late", member("GENESIS", "genesis", late="no")),
        ("row-form", "a day", member("GENESIS", "settings", calendar_from="2026-10-2")),
        ("row-form", "an origin", member("GENESIS", "genesis", origin="TRUE")),
        ("row-form", "a kind", response(kind="OPENS")),
        ("row-form", "a person", member("SERIES", "series", kind="human")),
        ("row-form", "more", lambda c: c[1]["series"]["profile"].update(seed="1")),
        ("row-form", "a number", member("GENESIS", "settings", closed_days=[["2026-10-14"]])),
        ("row-form", "no response", lambda c: a_response(c).update(response="SPY")),
        (
            "session",
            "a session struck off",
            all_of(struck_off(DAY, at=SECOND), skipped(DAY)),
        ),
        ("session", "struck off afterwards", all_of(struck_off(DAY, at=THIRD), skipped(DAY))),
        ("session", "not listed", skipped(DAY)),
        ("session", "not listed and unread", all_of(skipped(DAY), unread(DAY, BEFORE))),
        (
            "baseline-session",
            "a Friday struck off",
            all_of(
                struck_off("2026-10-09"),
                earlier_baseline,
                removed("EXTENSION", run_date=SECOND),
                refigured,
            ),
        ),
        ("baseline-session", "not listed", all_of(earlier_baseline, refigured)),
        ("late", "a Monday struck off", all_of(struck_off(SECOND), stored_in_the_afternoon)),
        ("late", "not listed", stored_in_the_afternoon),
    ]
]


def not_sealed(contents) -> Content:
    return {**settings_entry(contents), "sealed": "false", "at": contents[8]["at"]}


def asked_earlier(contents):
    """Change the time of a question when it is completed."""
    question = completion_of(contents)["generation"]
    question["asked_at"] = shifted(question["asked_at"], seconds=1)


@pytest.mark.parametrize(("rule", "change"), one_of_each_rule(FORGERIES))
async def test_a_forgery_of_a_sealed_record(as_recorded, create, rule, change):
    await check_forgery(copy_of(as_recorded, create), change, rule)


# --- Records that fit ------------------------------------------------------


def two_workers(contents):
    """Let two versions write by turns for a week, each with its settings before its entries."""
    place = middle(contents)
    result = contents[:place]
    for number, content in enumerate(contents[place:]):
        if number < 60 and content["kind"] == "CHECKPOINT":
            for version in ("0.2.9", contents[0]["settings"]["version"]):
                entry = settings_entry(contents, version=version)
                result.append({**entry, "at": content["at"]})
        result.append(content)
    return result


def two_calendars(contents):
    """Let two workers write by turns, only one of which knows of a closure."""
    for number, run_date in enumerate((SECOND, THIRD)):
        struck_off(DAY, at=run_date)(contents)
        entry = settings_entry(contents)
        place = contents.index(of_kind(contents, "SETTINGS")[2 * number])
        contents.insert(place + 1, {**entry, "at": contents[place]["at"]})


FITTING = [
    pytest.param(lambda contents: contents, id="nothing"),
    pytest.param(member("SERIES", "series", label=r"a \u0000"), id="a backslash before u0000"),
    pytest.param(late, id="sealed late"),
    pytest.param(
        then(member("GENESIS", "genesis", origin="UNKNOWN")), id="sealed late, origin unknown"
    ),
    pytest.param(two_workers, id="two versions by turns"),
    pytest.param(two_calendars, id="two calendars by turns"),
    pytest.param(
        all_of(struck_off(DAY, at=SECOND), skipped(DAY), unread(DAY, BEFORE)),
        id="a closed day",
    ),
    pytest.param(
        all_of(struck_off(DAY, at=SECOND), skipped(DAY), unread(DAY, BEFORE), never_covered),
        id="a day that is not decided",
    ),
    pytest.param(
        all_of(struck_off(DAY), skipped(DAY, "PROVIDER_ERROR"), unread(DAY, BEFORE)),
        id="a closed day without a close",
    ),
    pytest.param(response(last_session=AFTER), id="a response with a bar of its own day"),
    pytest.param(response(first_session="2026-10-03"), id="a response that begins with a Saturday"),
    pytest.param(
        member("GENESIS", "settings", calendar_from="2026-09-08"), id="an earlier calendar"
    ),
    pytest.param(struck_off(DAY), id="a session that is struck off and measured"),
    pytest.param(struck_off(SECOND, "2026-10-09"), id="two sessions struck off"),
]


@pytest.mark.parametrize("change", FITTING)
@pytest.mark.sampled(4)
async def test_a_sealed_record_that_fits(as_recorded, create, change):
    copy = copy_of(as_recorded, create)
    with psycopg.connect(copy) as conn:
        conn.execute("DROP SCHEMA told CASCADE")
    forge(copy, change)
    assert await discrepancies_of(copy) == []


async def test_a_sealed_record_of_every_event(eventful_as_recorded, create):
    assert await discrepancies_of(copy_of(eventful_as_recorded, create)) == []


@pytest.mark.long
async def test_a_record_of_every_event_that_is_sealed_late(eventful_as_recorded, create):
    """The record is sealed after each of its events: that makes no difference."""
    for part in range(1, 10):
        copy = copy_of(eventful_as_recorded, create)
        forge(copy, lambda contents, part=part: sealed_late(contents, len(contents) * part // 10))
        assert await discrepancies_of(copy) == [], part


async def test_an_unsealed_record_has_no_profile(rehearsed, create):
    def change(contents):
        for content in of_kind(contents, "GENERATION"):
            content["generation"]["profile_sha256"] = EMPTY_HASH

    copy = copy_of(rehearsed, create)
    forge(copy, change)
    # An API of an unsealed record is not asked for the column.
    assert all(text.endswith("(rule: profile)") for text in await discrepancies_of(copy))


WITHOUT_THE_JOURNAL = [
    pytest.param(
        "INSERT INTO closes (id, ticker, trading_day, open, close, source, read_at) SELECT "
        "gen_random_uuid(), ticker, trading_day, open, close + 1, source, "
        "read_at + interval '1 second' FROM closes "
        f"WHERE ticker = 'SPY' AND trading_day = '{DAY}'",
        "row",
        id="a close",
    ),
    pytest.param(
        "INSERT INTO splits (ticker, effective_date, factor, source, read_at) VALUES "
        f"('SPY', '{DAY}', 2, 'alphavantage SPLITS', '2026-10-18 13:00Z')",
        "row",
        id="a split",
    ),
    pytest.param(
        "INSERT INTO generations (id, series, run_date, attempt, asked_at, requested_model, "
        "prompt_version, system_prompt, user_prompt) SELECT gen_random_uuid(), series, "
        "run_date, 2, asked_at, requested_model, prompt_version, system_prompt, user_prompt "
        f"FROM generations WHERE run_date = '{SECOND}'",
        "row",
        id="an open question",
    ),
    pytest.param(
        f"UPDATE generations SET profile_sha256 = '{EMPTY_HASH}' WHERE run_date = '{SECOND}'",
        "row",
        id="another profile",
    ),
    pytest.param(
        "DELETE FROM closes WHERE ticker = 'SPY' AND trading_day = '2026-10-01'",
        "row",
        id="an unused close removed",
    ),
]


@pytest.mark.parametrize(("statements", "rule"), WITHOUT_THE_JOURNAL)
@pytest.mark.sampled(2)
async def test_a_row_without_the_journal(as_recorded, create, statements, rule):
    copy = copy_of(as_recorded, create)
    changed(copy, statements)
    for text in await discrepancies_of(copy):
        assert text.endswith(f"(rule: {rule})"), text


async def test_a_close_put_in_and_used_by_a_correction(harness, database):
    """The command `checkpoint correct` uses a row that nobody read: its entry is named."""
    batch = await harness.make_batch()
    harness.clock.time = calendar.due_at(batch.run_date, 1)
    await run_until_done(harness, lambda: daily.take(harness.context, batch.id, 1))
    assert await discrepancies_of(database) == []
    with without_triggers(database) as conn:
        conn.execute(
            "INSERT INTO closes (id, ticker, trading_day, open, close, source, read_at) SELECT "
            "gen_random_uuid(), ticker, trading_day, open, close * 1.02, source, "
            "read_at + interval '1 minute' FROM closes WHERE ticker = 'SPY' AND trading_day = %s",
            (batch.run_date,),
        )
    for text in await discrepancies_of(database):
        assert text.endswith("(rule: row)"), text
    corrected = await corrections.adopt(
        harness.context.pool,
        now=harness.clock.now(),
        run_date=batch.run_date,
        day=1,
        ticker="SPY",
        reason="The exchange says so.",
        in_force=harness.context.in_force,
    )
    assert corrected == 1
    found = await discrepancies_of(database)
    assert len(found) == 2
    for text in found:
        assert text.endswith("(rule: readings)"), text


async def test_a_rehearsal_that_calls_itself_live(as_recorded, create):
    """The clock of a rehearsal contradicts the journal; without it, nothing in the chain does."""
    copy = copy_of(as_recorded, create)
    forge(copy, member("GENESIS", "genesis", origin="LIVE"))
    (of_database,) = await discrepancies_of(copy)
    assert of_database == (
        "The origin of the record is LIVE by its GENESIS entry, but its database has the clock of "
        "a rehearsal. (rule: genesis)"
    )


async def test_a_rehearsal_whose_clock_was_dropped(as_recorded, create):
    """The record verifies, and its journal still says that it is a rehearsal."""
    copy = copy_of(as_recorded, create)
    with psycopg.connect(copy) as conn:
        conn.execute("DROP SCHEMA told CASCADE")
        query = "SELECT content::jsonb #>> '{genesis,origin}' FROM journal WHERE seq = 1"
        assert conn.execute(query).fetchone() == ("REHEARSED",)
    assert await discrepancies_of(copy) == []

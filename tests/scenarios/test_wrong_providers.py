"""
Every known fault of a provider, over real HTTP: what the client raises, what the job then does, and
what the record and the API show afterwards. A figure is right or it is missing; it is never wrong.

The providers are the rehearsal's simulators with a script of faults. It is the Monday before New
York's clocks go back; the mornings are Tuesday's, after a Monday without faults. `TABLE` has a row
for each case.
"""

import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from clocks import HandSetClock
from job_context import (
    ALPHA_VANTAGE_KEY,
    MARKET,
    MONDAY,
    OPENAI_KEY,
    logged,
    new_york,
    open_context,
    rows,
    run_attempt,
    standins,
)
from job_context import clock as clock
from msgspec import Struct
from msgspec.structs import replace
from provider_server import ProviderServer, Request
from provider_server import Reply as Answered
from psycopg import sql

import app.simulation.provider_simulators
from api.engine import Engine
from api.schema import Facts, schema
from app.database import pools
from app.database.queries import pool_fetcher
from app.domain import calendar
from app.domain.calendar import Calendar
from app.domain.model import batch_id
from app.errors import (
    AlphaMondayError,
    ConfigurationError,
    ProviderBusy,
    ProviderUnavailable,
    QuotaSpent,
    UnknownTicker,
)
from app.providers import alpha_vantage
from app.providers.rate_limiter import RequestOutcome
from app.simulation.dividends import DIVIDENDS_LISTED_WRONGLY
from app.simulation.faults import FAULTS, RANDOM_PROVIDERS, FaultRule
from app.simulation.market import Market
from jobs import daily, weekly
from jobs.context import Context

TUESDAY = MONDAY + timedelta(days=1)

# The simulators' own figures. SPY went from 559.63 to 558.92, JPM from 35.85 to 36.16, UPS from
# 100.50 to 100.02, NVDA from 149.80 to 147.82; (558.92 - 559.63) / 559.63 * 100 is -0.12687, and so
# on.
COMPUTED = "computed on 2026-10-26 from SPY 558.9200, JPM 36.1600, UPS 100.0200, NVDA 147.8200"
IN_THE_API = "COMPUTED on 2026-10-26: SPY -0.12687, JPM 0.86471, UPS -0.47761, NVDA -1.32176"
STORED = "active from SPY 559.6300, JPM 35.8500, UPS 100.5000, NVDA 149.8000"
BATCH_IN_THE_API = "ACTIVE from SPY 559.6300: BUY JPM 35.8500, SELL UPS 100.5000, BUY NVDA 149.8000"
SKIPPED = "SKIPPED for PROVIDER_ERROR without a figure"
MISSING = "SKIPPED for MISSING_CLOSE without a figure"

FIRST_TWO = "SPY answered, JPM answered"
ALL_FOUR = "SPY answered, JPM answered, UPS answered, NVDA answered"
ALL_DAY = (
    "waits until 9:30, waits until 10:30, waits until 12:30, waits until 16:30, waits until 20:30"
)


class Row(Struct, frozen=True, kw_only=True):
    """
    A fault and its outcome.

    A text that ends with `...` is the beginning of the actual one. `questions` has the outcome of
    each question: a refusal, or `accepted`. `requests` lists the outcomes in the ledger.
    """

    day: date
    rules: list[FaultRule]
    raises: type[AlphaMondayError] | None
    does: str
    record: str
    questions: tuple[str, ...]
    requests: str
    api: str


def a_rule(
    provider: str, fault: str, about: str | None, day: date, until: str, times: int | None
) -> FaultRule:
    hour, _, minute = until.partition(":")
    return FaultRule(
        provider=provider,
        fault=fault,
        symbol=about,
        since=new_york(day, 0),
        until=new_york(day, int(hour), int(minute)) if until else None,
        times=times,
    )


def row_of(who: str, rule: FaultRule, day: date, **outcome: Any):
    """Return a row with one rule, which is named after it."""
    return pytest.param(Row(day=day, rules=[rule], **outcome), id=in_words(who, rule))


def morning(fault, raises, does, record, requests, api, *, about="UPS", until="", times=None):
    """Return a row in which Alpha Vantage is faulty on Tuesday."""
    rule = a_rule(
        provider="alphavantage", fault=fault, about=about, day=TUESDAY, until=until, times=times
    )
    return row_of(
        "prices in the morning",
        rule,
        TUESDAY,
        raises=raises,
        does=does,
        record=record,
        questions=("accepted",),
        requests=requests,
        api=api,
    )


def monday(fault, *, about="UPS", until="", times=None, questions=("accepted",), **outcome):
    """Return a row in which Alpha Vantage is faulty on Monday."""
    rule = a_rule(
        provider="alphavantage", fault=fault, about=about, day=MONDAY, until=until, times=times
    )
    return row_of("prices on Monday", rule, MONDAY, questions=questions, **outcome)


def model(fault, *, times=None, **outcome):
    """Return a row in which the model is faulty on Monday."""
    rule = a_rule(provider="openai", fault=fault, about=None, day=MONDAY, until="", times=times)
    return row_of("model", rule, MONDAY, **outcome)


def in_words(who: str, rule: FaultRule) -> str:
    how_often = f", {rule.times} times" if rule.times else ""
    until = f", until {rule.until.astimezone(calendar.NEW_YORK):%H:%M}" if rule.until else ""
    return f"{who}: {rule.fault}{f' of {rule.symbol}' if rule.symbol else ''}{how_often}{until}"


def unreadable(fault: str, note: str, *, raises: type[AlphaMondayError] = ProviderUnavailable):
    """Return a row in which none of five attempts brings a readable answer."""
    record = f"skipped for PROVIDER_ERROR: {note}"
    return morning(
        fault=fault,
        raises=raises,
        does="4 x tries again, skips",
        record=record,
        requests=f"{FIRST_TWO}, 5 x UPS failed",
        api=SKIPPED,
    )


def no_price(fault: str):
    """
    Return a row in which the newest price is missing: it is requested again at the set times, and
    then the checkpoint is skipped.
    """
    return morning(
        fault=fault,
        raises=None,
        does=f"{ALL_DAY}, skips",
        record=NOT_YET,
        requests=f"{ALL_FOUR}, 5 x UPS answered",
        api=MISSING,
    )


SPACED = "asks in vain, waits until 9:01, asks in vain, waits until 9:11, asks in vain, fails"


def useless(fault: str, refusal: str, does: str = "3 x asks in vain, fails"):
    """Return a row in which the model sends three answers, none of them usable."""
    return model(
        fault=fault,
        raises=None,
        does=does,
        record=(
            f"failed for NO_USABLE_ANSWER: 3 questions brought no usable answer. The last: "
            f"{refusal}"
        ),
        questions=(refusal,) * 3,
        requests="",
        api="FAILED for NO_USABLE_ANSWER without a figure",
    )


def silent(fault: str, refusal: str, *, raises: type[AlphaMondayError] = ProviderUnavailable):
    """Return a row in which three questions get no answer."""
    return model(
        fault=fault,
        raises=raises,
        does=SPACED,
        record=(
            f"failed for PROVIDER_ERROR: 3 questions brought no usable answer. The last: {refusal}"
        ),
        questions=(refusal,) * 3,
        requests="",
        api="FAILED for PROVIDER_ERROR without a figure",
    )


def hopeless(fault: str, refusal: str):
    """Return a row in which only a person can help: after one question the Monday has failed."""
    return model(
        fault=fault,
        raises=ConfigurationError,
        does="asks in vain, fails",
        record=f"failed for CONFIGURATION: {refusal}",
        questions=(refusal,),
        requests="",
        api="FAILED for CONFIGURATION without a figure",
    )


NO_JSON = "UPS: Alpha Vantage did not answer with a JSON object."
NO_SERIES = "UPS: Alpha Vantage answered without a daily series."
KNOWN_LATELY = (
    "skipped for PROVIDER_ERROR: Alpha Vantage does not know UPS. It did on 2026-10-26, so it will "
    "be asked again."
)
NOT_YET = "skipped for MISSING_CLOSE: UPS: no close of 2026-10-26 by the last time of asking."
SLOW_DOWN = "Alpha Vantage asked us to slow down: Thank you for using Alpha Vantage! ..."
NO_KEY = "Alpha Vantage does not accept the key: set ALPHA_VANTAGE_API_KEY to a valid one."
ENDED = (
    "NVDA is taken for no longer traded: its last close is of 2026-10-22, and SPY has one of "
    "2026-10-23."
)
DOWN_ALL_DAY = (
    "4 x tries again, waits until 9:30, 4 x tries again, waits until 10:30, 4 x tries again, "
    "waits until 12:30, waits until 16:30, waits until 20:30"
)
A_PAGE = "The provider answered with a web page in place of JSON."
SPACED_AND_STORED = "asks in vain, waits until 9:01, asks in vain, waits until 9:11, asks, stores"
AT_ONCE_AND_STORED = "2 x asks in vain, asks, stores"

TABLE = [
    # fault, the client's error, the job's steps, the record's sentence, the ledger's requests, the
    # API's sentence
    unreadable("html", NO_JSON),
    unreadable("empty_body", NO_JSON),
    unreadable("truncated_body", NO_JSON),
    unreadable("list", NO_JSON),
    unreadable("gzip", "Alpha Vantage answered with a body that is not gzip."),
    unreadable("http_429", "Alpha Vantage answered 429.", raises=ProviderBusy),
    unreadable("http_500", "Alpha Vantage answered 500."),
    unreadable("http_503", "Alpha Vantage answered 503."),
    unreadable("redirect", "Alpha Vantage answered 302."),
    unreadable("cut", "Alpha Vantage cannot be reached (RemoteProtocolError)."),
    unreadable("burst", SLOW_DOWN, raises=ProviderBusy),
    unreadable("note", SLOW_DOWN, raises=ProviderBusy),
    unreadable(
        "information",
        "Alpha Vantage answered with a notice in place of data: "
        "We are upgrading our systems. Your key *** will work again soon.",
    ),
    morning(
        fault="empty",
        raises=UnknownTicker,
        does="4 x tries again, skips",
        record=KNOWN_LATELY,
        requests=f"{FIRST_TWO}, 5 x UPS unknown",
        api=SKIPPED,
    ),
    unreadable("series_is_text", NO_SERIES),
    unreadable("bars_are_text", "UPS, 2026-06-04: 'none' is not a bar."),
    unreadable("bad_date", "UPS: '2026-06-04T00' is not a day."),
    unreadable("no_close", "UPS, 2026-06-04: None is not a price."),
    unreadable("close_is_the_key", "UPS, 2026-06-04: '***' is not a price."),
    no_price("close_is_a_number"),
    no_price("close_is_zero"),
    no_price("close_is_negative"),
    no_price("close_is_not_a_number"),
    no_price("close_is_scientific"),
    no_price("close_has_a_comma"),
    morning(
        fault="hang",
        raises=ProviderUnavailable,
        does="4 x tries again, skips",
        record="skipped for PROVIDER_ERROR: Alpha Vantage did not answer within ...",
        requests="5 x SPY failed",
        api=SKIPPED,
        about="SPY",
    ),
    morning(
        fault="slow",
        raises=ProviderUnavailable,
        does="4 x tries again, skips",
        record="skipped for PROVIDER_ERROR: Alpha Vantage did not answer within ...",
        requests="5 x SPY failed",
        api=SKIPPED,
        about="SPY",
    ),
    morning(
        fault="unknown",
        raises=UnknownTicker,
        does="4 x tries again, skips",
        record=KNOWN_LATELY,
        requests=f"{FIRST_TWO}, 5 x UPS unknown",
        api=SKIPPED,
    ),
    morning(
        fault="bad_key",
        raises=ConfigurationError,
        does="skips",
        record=f"skipped for PROVIDER_ERROR: {NO_KEY}",
        requests=f"{FIRST_TWO}, UPS refused",
        api=SKIPPED,
    ),
    morning(
        fault="premium",
        raises=ConfigurationError,
        does="skips",
        record=(
            "skipped for PROVIDER_ERROR: Alpha Vantage asks for a premium key for this: Thank "
            "you ..."
        ),
        requests=f"{FIRST_TWO}, UPS refused",
        api=SKIPPED,
    ),
    morning(
        fault="quota",
        raises=QuotaSpent,
        does="waits until 10:00, waits until 11:00, computes",
        record=COMPUTED,
        requests=f"{FIRST_TWO}, 2 x UPS quota_spent, UPS answered, NVDA answered",
        api=IN_THE_API,
        until="10:30",
    ),
    morning(
        fault="late_bar",
        raises=None,
        does=f"{ALL_DAY}, skips",
        record=NOT_YET,
        requests=f"{FIRST_TWO}, UPS answered, NVDA answered, 5 x UPS answered",
        api=MISSING,
    ),
    morning(
        fault="late_bar",
        raises=None,
        does="waits until 9:30, waits until 10:30, computes",
        record=COMPUTED,
        requests=f"{ALL_FOUR}, 2 x UPS answered",
        api=IN_THE_API,
        until="10:00",
    ),
    morning(
        fault="late_bar",
        raises=None,
        does=f"{ALL_DAY}, skips",
        record="skipped for MISSING_CLOSE: SPY: no close of 2026-10-26 by the last time of asking.",
        requests="6 x SPY answered",
        api=MISSING,
        about="SPY",
    ),
    morning(
        fault="no_bars",
        raises=UnknownTicker,
        does="4 x tries again, skips",
        record=KNOWN_LATELY,
        requests=f"{FIRST_TWO}, 5 x UPS unknown",
        api=SKIPPED,
    ),
    morning(
        fault="delisted",
        raises=None,
        does=f"{ALL_DAY}, skips",
        record=NOT_YET,
        requests=f"{ALL_FOUR}, 5 x UPS answered",
        api=MISSING,
    ),
    morning(
        fault="partial_bar",
        raises=None,
        does="computes",
        record=COMPUTED,
        requests=ALL_FOUR,
        api=IN_THE_API,
        about=None,
    ),
    morning(
        fault="out_of_order",
        raises=None,
        does="computes",
        record=COMPUTED,
        requests=ALL_FOUR,
        api=IN_THE_API,
        about=None,
    ),
    morning(
        fault="late_bar",
        raises=None,
        does="waits until 9:30, waits until 10:30, waits until 12:30, waits until 16:30, computes",
        record=COMPUTED,
        requests=f"{ALL_FOUR}, 4 x UPS answered",
        api=IN_THE_API,
        until="16:15",
    ),
    # What passes is waited out: the figure is the right one.
    *[
        morning(
            fault=fault,
            raises=None,
            does="2 x tries again, computes",
            record=COMPUTED,
            requests="SPY answered, JPM answered, 2 x UPS failed, UPS answered, NVDA answered",
            api=IN_THE_API,
            times=2,
        )
        for fault in ("burst", "http_500", "cut", "truncated_body", "close_is_the_key")
    ],
    *[
        morning(
            fault=fault,
            raises=None,
            does="2 x tries again, computes",
            record=COMPUTED,
            requests="SPY answered, JPM answered, 2 x UPS unknown, UPS answered, NVDA answered",
            api=IN_THE_API,
            times=2,
        )
        for fault in ("unknown", "empty", "no_bars")
    ],
    morning(
        fault="close_is_zero",
        raises=None,
        does="waits until 9:30, waits until 10:30, computes",
        record=COMPUTED,
        requests=f"{ALL_FOUR}, 2 x UPS answered",
        api=IN_THE_API,
        times=2,
    ),
    morning(
        fault="html",
        raises=None,
        does="4 x tries again, computes",
        record=COMPUTED,
        requests="SPY answered, JPM answered, 4 x UPS failed, UPS answered, NVDA answered",
        api=IN_THE_API,
        times=4,
    ),
    # Monday: never a partial baseline.
    monday(
        fault="http_503",
        raises=ProviderUnavailable,
        does=f"asks, {DOWN_ALL_DAY}, fails",
        record="failed for PROVIDER_ERROR: Alpha Vantage answered 503.",
        requests="SPY answered, JPM answered, 18 x UPS failed",
        api="FAILED for PROVIDER_ERROR without a figure",
    ),
    monday(
        fault="close_is_negative",
        raises=None,
        does=f"asks, {ALL_DAY}, fails",
        record="failed for MISSING_CLOSE: SPY: no close of 2026-10-23 yet.",
        requests="6 x SPY answered",
        api="FAILED for MISSING_CLOSE without a figure",
        about="SPY",
    ),
    monday(
        fault="bad_key",
        raises=ConfigurationError,
        does="asks, fails",
        record=f"failed for CONFIGURATION: {NO_KEY}",
        requests="SPY refused",
        api="FAILED for CONFIGURATION without a figure",
        about=None,
    ),
    monday(
        fault="unknown",
        raises=UnknownTicker,
        does="asks, 4 x tries again, fails",
        record="failed for CONFIGURATION: Alpha Vantage does not know SPY. Set BENCHMARK_SYMBOL "
        "to a "
        "ticker that it knows.",
        requests="5 x SPY unknown",
        api="FAILED for CONFIGURATION without a figure",
        about="SPY",
    ),
    monday(
        fault="unknown",
        raises=None,
        does="asks, tries again, stores",
        record=STORED,
        requests="SPY answered, JPM answered, UPS unknown, UPS answered, NVDA answered",
        api=BATCH_IN_THE_API,
        times=1,
    ),
    monday(
        fault="unknown",
        raises=UnknownTicker,
        does="asks, 4 x tries again, takes the answer back, asks, stores",
        record=STORED,
        requests="SPY answered, JPM answered, 5 x UPS unknown, UPS answered, NVDA answered",
        api=BATCH_IN_THE_API,
        times=5,
        questions=("Alpha Vantage does not know UPS.", "accepted"),
    ),
    monday(
        fault="quota",
        raises=QuotaSpent,
        does="asks, waits until 10:00, stores",
        record=f"{STORED}, late",
        requests=f"SPY quota_spent, {ALL_FOUR}",
        api=f"{BATCH_IN_THE_API}, late",
        about=None,
        until="9:45",
    ),
    monday(
        fault="late_bar",
        raises=None,
        does=(
            "asks, waits until 9:30, waits until 10:30, waits until 12:30, waits until 16:30, "
            "stores"
        ),
        record=f"{STORED}, late",
        requests=f"{ALL_FOUR}, 4 x UPS answered",
        api=f"{BATCH_IN_THE_API}, late",
        until="16:15",
    ),
    monday(
        fault="late_bar",
        raises=None,
        does=f"asks, {ALL_DAY}, takes the answer back, asks, takes the answer back, asks, takes "
        f"the "
        f"answer back, fails",
        record=(
            f"failed for NO_USABLE_ANSWER: 3 questions brought no usable answer. The last: {ENDED}"
        ),
        requests="SPY answered, JPM answered, UPS answered, 6 x NVDA answered",
        api="FAILED for NO_USABLE_ANSWER without a figure",
        about="NVDA",
        questions=(ENDED,) * 3,
    ),
    monday(
        fault="partial_bar",
        raises=None,
        does="asks, stores",
        record=STORED,
        requests=ALL_FOUR,
        api=BATCH_IN_THE_API,
        about=None,
    ),
    monday(
        fault="out_of_order",
        raises=None,
        does="asks, stores",
        record=STORED,
        requests=ALL_FOUR,
        api=BATCH_IN_THE_API,
        about=None,
    ),
    monday(
        fault="burst",
        raises=None,
        does="asks, 3 x tries again, stores",
        record=STORED,
        requests=f"3 x SPY failed, {ALL_FOUR}",
        api=BATCH_IN_THE_API,
        about="SPY",
        times=3,
    ),
    # The model.
    useless("html", A_PAGE, SPACED),
    useless("empty_body", "The provider's answer was empty.", SPACED),
    useless("truncated_body", "The provider's answer was not JSON, or not all of it.", SPACED),
    useless("list", "The provider answered with JSON that is no completion.", SPACED),
    useless("no_choices", "The provider answered with an error: upstream failed", SPACED),
    useless("truncated", "The answer was truncated."),
    useless("refusal", "The model refused: I can't help with that."),
    useless("no_content", "The answer was empty."),
    useless("prose", "The answer was not JSON of the schema: ..."),
    useless("two_picks", "The answer had 2 picks; exactly 3 are needed."),
    useless("four_picks", "The answer had 4 picks; exactly 3 are needed."),
    useless("repeated", "JPM was chosen more than once; the picks must differ."),
    useless("benchmark", "SPY is the benchmark and cannot be chosen."),
    useless(
        "unknown_action", "The answer was not JSON of the schema: Invalid enum value 'HOLD' ..."
    ),
    useless("bad_ticker", "'Apple Inc.' is not a ticker."),
    useless("no_reasoning", "JPM has no reasoning."),
    useless("nul", "The reasoning of JPM holds characters that cannot be stored."),
    useless("surrogate", "The answer was not JSON of the schema: ..."),
    useless(
        "extra_member",
        "The answer was not JSON of the schema: Object contains unknown field `confidence`...",
    ),
    silent("gzip", "The model's provider answered with a body that is not gzip."),
    silent("http_429", "The model's provider asked us to slow down: ...", raises=ProviderBusy),
    silent("http_500", "The model's provider did not answer (InternalServerError): ..."),
    silent("http_503", "The model's provider did not answer (InternalServerError): ..."),
    silent("redirect", "The model's provider did not answer (APIStatusError): ..."),
    silent("cut", "The model's provider did not answer (APIConnectionError): ..."),
    silent("hang", "The model did not answer within ..."),
    silent("slow", "The model did not answer within ..."),
    hopeless(
        "bad_key",
        "The model's provider does not accept the key: set OPENAI_API_KEY to a valid one.",
    ),
    hopeless(
        "unknown_model",
        "The model's provider does not know what was asked for: check OPENAI_MODEL. ...",
    ),
    hopeless("bad_request", "The model's provider refused the request: ..."),
    hopeless(
        "no_credit", "The account at the model's provider is out of credit: see its billing page."
    ),
    model(
        fault="unknown_ticker",
        raises=None,
        does="asks, 4 x tries again, takes the answer back, asks, takes the answer back, asks, "
        "takes "
        "the answer back, fails",
        record="failed for NO_USABLE_ANSWER: 3 questions brought no usable answer. The last: Alpha "
        "Vantage does not ...",
        questions=("Alpha Vantage does not know ZZZZ.",) * 3,
        requests="SPY answered, 7 x ZZZZ unknown",
        api="FAILED for NO_USABLE_ANSWER without a figure",
    ),
    model(
        fault="unknown_ticker",
        raises=None,
        does="asks, 4 x tries again, takes the answer back, asks, stores",
        record=STORED,
        questions=("Alpha Vantage does not know ZZZZ.", "accepted"),
        requests="SPY answered, 5 x ZZZZ unknown, JPM answered, UPS answered, NVDA answered",
        api=BATCH_IN_THE_API,
        times=1,
    ),
    *[
        model(
            fault=fault,
            raises=raises,
            does=does,
            record=STORED,
            questions=(refusal, refusal, "accepted"),
            requests=ALL_FOUR,
            api=BATCH_IN_THE_API,
            times=2,
        )
        for fault, raises, refusal, does in (
            (
                "http_429",
                ProviderBusy,
                "The model's provider asked us to slow down: ...",
                SPACED_AND_STORED,
            ),
            (
                "cut",
                ProviderUnavailable,
                "The model's provider did not answer (APIConnectionError): ...",
                SPACED_AND_STORED,
            ),
            ("html", None, A_PAGE, SPACED_AND_STORED),
            (
                "nul",
                None,
                "The reasoning of JPM holds characters that cannot be stored.",
                AT_ONCE_AND_STORED,
            ),
        )
    ],
]


# The client's result for a list of splits: the listed dates or the error's message; and its reason
# for each unreadable row.
META = [date(2024, 4, 5), date(2024, 4, 29), date(2026, 5, 22)]
SPLIT_FAULTS: dict[str, tuple[list[date] | str, list[str]]] = {
    "no_splits": ([], []),
    "late_split": (META, []),
    "splits_are_text": ("META: Alpha Vantage answered without a list of splits.", []),
    "split_twice": ([*META, date(2026, 10, 15)], []),
    "factor_is_zero": ([], ["a factor must be above zero, not '0.0000'."]),
    "factor_is_a_number": ([], ["2 is not a factor."]),
}


@pytest.mark.parametrize(
    ("fault", "expected", "unreadable"), [(fault, *SPLIT_FAULTS[fault]) for fault in SPLIT_FAULTS]
)
async def test_faulty_splits(on_stage, clock, fault, expected, unreadable):
    """
    An invalid list counts as no answer; an unreadable row is reported; a short list is accepted.
    """
    clock.time = new_york(date(2026, 10, 16))  # the day after a split of META
    async with on_stage(
        [FaultRule(provider="alphavantage", fault=fault, function="SPLITS", times=5)]
    ) as stage:
        if isinstance(expected, str):
            with pytest.raises(ProviderUnavailable) as refused:
                await stage.context.prices.splits("META", since=clock.now())
            assert str(refused.value) == expected
        else:
            answer = await stage.context.prices.splits("META", since=clock.now())
            assert [one.effective_date for one in answer.splits] == expected
            days = [*META, date(2026, 10, 15)] if unreadable else []
            assert [row.day for row in answer.unreadable] == days
            assert {row.reason for row in answer.unreadable} == {
                f"META, {day}: {unreadable[0]}" for day in days
            }


# The faults of dividends: no checkpoint needs them, so they cannot disturb one. What they do is
# tested in tests/unit/simulation/test_dividends.py and tests/integration/jobs/test_dividends.py.
DIVIDEND_FAULTS = {
    *DIVIDENDS_LISTED_WRONGLY,
    "premium_dividends",
    "no_dividends",
    "dividends_are_text",
    "amount_is_zero",
    "amount_is_a_number",
    "amount_is_the_key",
    "restated_amount",
    "spin_off_as_dividend",
}


def test_every_fault_has_a_row():
    """The tables have every fault of the simulators, and none twice."""
    shown = {(rule.provider, rule.fault) for param in TABLE for rule in param.values[0].rules}
    shown |= {("alphavantage", fault) for fault in (*SPLIT_FAULTS, *DIVIDEND_FAULTS)}
    assert shown == {
        (provider, fault) for provider in RANDOM_PROVIDERS for fault in FAULTS[provider]
    }
    ids = Counter(param.id for param in TABLE)
    assert [id for id, count in ids.items() if count > 1] == []
    assert len(TABLE) >= 40


class Stage(Struct, frozen=True):
    """Both simulators with a script of faults, and a context that uses them."""

    context: Context
    clock: HandSetClock
    log: Path

    def times(self, symbol: str, since: datetime) -> list[str]:
        """Return the times of the requests for a symbol, in New York."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        times = [datetime.fromisoformat(line["at"]) for line in lines if line["symbol"] == symbol]
        return [f"{at.astimezone(calendar.NEW_YORK):%-H:%M}" for at in times if at >= since]

    def requests(self, provider: str = "alphavantage", since: datetime | None = None) -> list[str]:
        """
        Return the symbols of the requests that the simulators received, in order, as they were
        spelled.
        """
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [
            line["symbol"]
            for line in lines
            if line["provider"] == provider
            and (since is None or datetime.fromisoformat(line["at"]) >= since)
        ]


@pytest.fixture
def on_stage(database, pool, clock, tmp_path):
    """Set up a stage with a script."""

    @asynccontextmanager
    async def set_up(rules: Sequence[FaultRule], market: Market = MARKET) -> AsyncIterator[Stage]:
        log = tmp_path / "requests"
        async with (
            standins(clock=clock, log=log, rules=rules, market=market) as url,
            open_context(database=database, pool=pool, clock=clock, base_url=url) as context,
        ):
            yield Stage(context, clock, log)

    return set_up


@pytest.fixture
def impatient(monkeypatch):
    """Return a function that shortens the time limits for faults that would use them up."""

    def become(row: Row, context: Context) -> None:
        if row.rules[0].fault in ("hang", "slow"):
            monkeypatch.setattr(alpha_vantage, "_TIME_LIMIT", 0.3)
            context.model_clients["main"].timeout = 0.3

    return become


def matches(expected: str, actual: str | None) -> bool:
    """Return whether a text is the expected one, or begins with it if that ends with `...`."""
    return bool(actual) and (
        actual == expected or (expected.endswith("...") and actual.startswith(expected[:-3]))
    )


@pytest.mark.parametrize("row", TABLE)
@pytest.mark.sampled(14)
async def test_the_outcome_of_a_fault(on_stage, impatient, clock, pool, row):
    """
    The client, the job, the record, the ledger and the API have the results of the row; a key is
    nowhere.
    """
    async with on_stage([*row.rules, *map(two_days_later, row.rules)]) as stage:
        if row.day == TUESDAY:
            await weekly.run_if_due(stage.context, 1, None)
        impatient(row, stage.context)
        done, log = await run(stage, row.day)
        requests, questions = stage.requests(since=new_york(row.day)), len(stage.requests("openai"))
        ledger = await in_the_ledger(pool, new_york(row.day))
        clock.time = new_york(row.day + timedelta(days=2))
        raised = await what_the_client_raises(stage, row.rules[0])
    assert type(raised) is (row.raises or type(None))
    assert in_short(done) == row.does
    record = await in_the_record(pool, row.day)
    assert matches(row.record, record), record
    assert await in_the_api(pool, row.day, clock) == row.api
    assert in_short(ledger) == row.requests
    assert len(requests) == len(ledger)

    generations = await rows(
        pool, "SELECT attempt, accepted, refusal FROM generations ORDER BY attempt"
    )
    assert [attempt for attempt, _, _ in generations] == list(range(1, questions + 1))
    assert len(generations) == len(row.questions)
    for expected, (_, accepted, refusal) in zip(row.questions, generations, strict=True):
        assert accepted is (expected == "accepted")
        assert accepted or matches(expected, refusal), refusal

    everything = f"{log}{raised}{await all_that_is_stored(pool)}"
    assert ALPHA_VANTAGE_KEY not in everything
    assert OPENAI_KEY not in everything
    assert "Traceback" not in log


def two_days_later(rule: FaultRule) -> FaultRule:
    """Return the same rule for two days later, when the client is called directly."""
    until = rule.until and rule.until + timedelta(days=2)
    return replace(rule, since=rule.since + timedelta(days=2), until=until)


async def what_the_client_raises(stage: Stage, rule: FaultRule) -> AlphaMondayError | None:
    """Return the error that the client raises when it is called directly."""
    try:
        if rule.provider == "openai":
            await stage.context.model_clients["main"].ask("You are an analyst.", "Choose.")
        else:
            await stage.context.prices.bars(rule.symbol or "SPY", since=stage.clock.now())
    except AlphaMondayError as error:
        return error
    return None


WORDS = {
    "provider request failed, retrying": "tries again",
    "answer accepted": "asks",
    "checkpoint computed": "computes",
    "checkpoint skipped": "skips",
    "batch stored": "stores",
    "Monday failed": "fails",
}


async def run(stage: Stage, day: date) -> tuple[list[str], str]:
    """
    Run the job of a day as the queue would, again at the times that it returns; return what it did,
    and its log.
    """

    async def job() -> None:
        if day == MONDAY:
            await weekly.run_if_due(stage.context, 1, None)
        else:
            await daily.take(stage.context, batch_id("main", MONDAY), (day - MONDAY).days)

    did, log, later = [], "", new_york(day)
    while later and len(did) < 20:
        stage.clock.time = later
        with logged("INFO", stage.clock) as lines:
            later = await run_attempt(job)
        log += json.dumps(lines)
        did += [word for line in lines if (word := in_a_word(line))]
        if later:
            did.append(f"waits until {later.astimezone(calendar.NEW_YORK):%-H:%M}")
    return did, log


def in_a_word(line: dict[str, Any]) -> str | None:
    """Return what the job did, by a line of the log; None if the line does not matter."""
    if line["event"] == "no usable answer":
        return "takes the answer back" if line.get("step") == "snapshot" else "asks in vain"
    return WORDS.get(line["event"])


def in_short(things: Sequence[str]) -> str:
    """Return these texts in one line, with the number of repetitions."""
    counted = [(thing, len(list(group))) for thing, group in groupby(things)]
    return ", ".join(f"{count} x {thing}" if count > 1 else thing for thing, count in counted)


async def in_the_ledger(pool: pools.Pool, since: datetime) -> list[str]:
    """Return the requests since a time, each with its outcome."""
    requests = await rows(
        pool,
        "SELECT symbol, outcome FROM operations.provider_requests WHERE at >= %s ORDER BY at, id",
        since,
    )
    return [f"{symbol} {outcome}" for symbol, outcome in requests]


async def in_the_record(pool: pools.Pool, day: date) -> str:
    """Return what the record has of a day, as a sentence."""
    if day == MONDAY:
        ((status, late, reason, failure, symbol, price),) = await rows(
            pool,
            """
            SELECT status, late, failure_reason, failure, benchmark_symbol, benchmark_initial_price
            FROM batches
            """,
        )
        picks = await rows(pool, "SELECT ticker, initial_price FROM picks ORDER BY position")
        if status == "failed":
            assert (price, picks) == (None, [])
            return f"{status} for {reason}: {failure}"
        return f"{status} from {_priced([(symbol, price), *picks])}{', late' if late else ''}"
    ((status, reason, note, trading_day, price),) = await rows(
        pool,
        "SELECT status, skip_reason, note, trading_day, benchmark_price FROM checkpoints WHERE "
        "checkpoint_date = %s",
        day,
    )
    metrics = await rows(
        pool,
        "SELECT ticker, current_price FROM pick_checkpoint_metrics JOIN picks ON picks.id = "
        "pick_id ORDER BY position",
    )
    if status == "skipped":
        assert (trading_day, price, metrics) == (None, None, [])
        return f"{status} for {reason}: {note}"
    assert (reason, note) == (None, None)
    return f"{status} on {trading_day} from {_priced([('SPY', price), *metrics])}"


def _priced(prices: Sequence[tuple[str, Decimal]]) -> str:
    return ", ".join(f"{ticker} {price}" for ticker, price in prices)


QUERY = """
query($monday: Date!) {
  batchOn(runDate: $monday) {
    status late failureReason failure benchmarkSymbol benchmarkInitialPrice
    picks { ticker action initialPrice metrics { currentPrice } }
    generations { accepted refusal }
    checkpoints {
      checkpointDate status skipReason note tradingDay benchmarkPrice benchmarkReturnPct
      metrics { pick { ticker } absoluteReturnPct close { tradingDay close } currentPrice }
    }
  }
}
"""


async def ask_the_api(pool: pools.Pool, clock: HandSetClock) -> dict[str, Any]:
    """Return the Monday's batch from the API."""
    engine = Engine(schema, pool_fetcher(pool), Facts(version="1", rehearsed=False, now=clock.now))
    answer = json.loads((await engine.execute(QUERY, {"monday": str(MONDAY)})).body)
    assert "errors" not in answer, answer
    return answer["data"]["batchOn"]


async def in_the_api(pool: pools.Pool, day: date, clock: HandSetClock) -> str:
    """Return what the API has of a day, as a sentence; its messages are equal to the record's."""
    batch = await ask_the_api(pool, clock)
    generations = await rows(pool, "SELECT accepted, refusal FROM generations ORDER BY attempt")
    assert [(one["accepted"], one["refusal"]) for one in batch["generations"]] == generations
    if batch["status"] == "FAILED":
        assert (batch["failure"],) == (await rows(pool, "SELECT failure FROM batches"))[0]
        assert (batch["benchmarkInitialPrice"], batch["picks"], batch["checkpoints"]) == (
            None,
            [],
            [],
        )
        return f"FAILED for {batch['failureReason']} without a figure"
    if day == MONDAY:
        picks = ", ".join(
            f"{pick['action']} {pick['ticker']} {pick['initialPrice']}" for pick in batch["picks"]
        )
        late = ", late" if batch["late"] else ""
        return (
            f"{batch['status']} from {batch['benchmarkSymbol']} {batch['benchmarkInitialPrice']}: "
            f"{picks}{late}"
        )
    (taken,) = [one for one in batch["checkpoints"] if one["checkpointDate"] == str(day)]
    if taken["status"] == "SKIPPED":
        assert (taken["note"],) == (
            await rows(pool, "SELECT note FROM checkpoints WHERE checkpoint_date = %s", day)
        )[0]
        assert (taken["tradingDay"], taken["benchmarkPrice"], taken["metrics"]) == (None, None, [])
        assert all(pick["metrics"] == [] for pick in batch["picks"])
        return f"SKIPPED for {taken['skipReason']} without a figure"
    for metric in taken["metrics"]:
        assert metric["close"] == {
            "tradingDay": taken["tradingDay"],
            "close": metric["currentPrice"],
        }
    returns = [("SPY", taken["benchmarkReturnPct"])]
    returns += [
        (metric["pick"]["ticker"], metric["absoluteReturnPct"]) for metric in taken["metrics"]
    ]
    figures = ", ".join(f"{ticker} {Decimal(figure):.5f}" for ticker, figure in returns)
    return f"COMPUTED on {taken['tradingDay']}: {figures}"


async def all_that_is_stored(pool: pools.Pool) -> str:
    """Return every row of every table, as text."""
    text = []
    async with pool.connection() as conn:
        tables = await conn.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('public', 'queue', "
            "'operations')"
        )
        for table in await tables.fetchall():
            cursor = await conn.execute(
                sql.SQL("SELECT string_agg(one::text, E'\n') FROM {} one").format(
                    sql.Identifier(*table)
                )
            )
            text += [rows or "" for (rows,) in await cursor.fetchall()]
    return "\n".join(text)


async def test_bars_that_come_at_a_quarter_past_four(on_stage, clock, pool):
    """
    A pick's close is requested at each of its times until it is there; the others are requested
    once.
    """
    late = a_rule(
        provider="alphavantage",
        fault="late_bar",
        about="UPS",
        day=TUESDAY,
        until="16:15",
        times=None,
    )
    async with on_stage([late]) as stage:
        await weekly.run_if_due(stage.context, 1, None)
        await run(stage, TUESDAY)
        since = new_york(TUESDAY)
        assert stage.times("UPS", since) == ["9:00", "9:30", "10:30", "12:30", "16:30"]
        assert [stage.times(other, since) for other in ("SPY", "JPM", "NVDA")] == [["9:00"]] * 3
        assert len(stage.requests(since=since)) == 8
    assert await in_the_record(pool, TUESDAY) == COMPUTED
    assert await in_the_api(pool, TUESDAY, clock) == IN_THE_API
    ((taken_at, skipped_at),) = await rows(
        pool, "SELECT taken_at, skipped_at FROM checkpoints WHERE day = 1"
    )
    assert new_york(TUESDAY, 16, 30) <= taken_at < new_york(TUESDAY, 16, 31)
    assert skipped_at is None


# A seed with which the simulated model chooses BRK.B, JNJ and NVDA on that Monday.
BERKSHIRE = Market(Calendar(), "5")


def unknown(symbol: str) -> FaultRule:
    return FaultRule(provider="alphavantage", fault="unknown", symbol=symbol)


@pytest.mark.parametrize(
    ("rules", "on_monday", "on_tuesday"),
    [
        pytest.param([], ["BRK-B"], ["BRK-B"], id="both known"),
        pytest.param([unknown("BRK.B")], ["BRK-B"], ["BRK-B"], id="only the dash known"),
        pytest.param([unknown("BRK-B")], ["BRK-B", "BRK.B"], ["BRK.B"], id="only the dot known"),
    ],
)
async def test_class_shares(on_stage, clock, pool, rules, on_monday, on_tuesday):
    """
    They are requested with a dash, then with a dot; the spelling that worked is remembered, and the
    record has one spelling.
    """
    async with on_stage(rules, BERKSHIRE) as stage:
        await weekly.run_if_due(stage.context, 1, None)
        assert stage.requests() == ["SPY", *on_monday, "JNJ", "NVDA"]
        await run(stage, TUESDAY)
        assert stage.requests(since=new_york(TUESDAY)) == ["SPY", *on_tuesday, "JNJ", "NVDA"]
    assert [pick["ticker"] for pick in (await ask_the_api(pool, clock))["picks"]] == [
        "BRK.B",
        "JNJ",
        "NVDA",
    ]
    assert (await in_the_record(pool, TUESDAY)).startswith("computed on 2026-10-26 from SPY ")
    assert await rows(pool, "SELECT DISTINCT ticker FROM closes WHERE ticker ~ 'BRK'") == [
        ("BRK.B",)
    ]
    assert await rows(
        pool, "SELECT DISTINCT symbol FROM operations.provider_requests WHERE symbol ~ 'BRK'"
    ) == [("BRK.B",)]


async def test_class_shares_that_are_unknown_for_a_while(on_stage, clock, pool):
    """
    Each attempt uses the other spelling. One that did not work is not remembered: when the ticker
    is known again, the dash is used.
    """
    rules = [
        FaultRule(
            provider="alphavantage",
            fault="unknown",
            symbol=symbol,
            since=new_york(TUESDAY),
            times=3,
        )
        for symbol in ("BRK-B", "BRK.B")
    ]
    async with on_stage(rules, BERKSHIRE) as stage:
        await weekly.run_if_due(stage.context, 1, None)
        await run(stage, TUESDAY)
        note = "Alpha Vantage does not know BRK.B. It did on 2026-10-26, so it will be asked again."
        assert await in_the_record(pool, TUESDAY) == f"skipped for PROVIDER_ERROR: {note}"
        assert stage.requests(since=new_york(TUESDAY)) == [
            "SPY",
            "BRK-B",
            "BRK.B",
            "BRK-B",
            "BRK.B",
            "BRK-B",
        ]
        wednesday = TUESDAY + timedelta(days=1)
        await run(stage, wednesday)
        assert stage.requests(since=new_york(wednesday)) == ["SPY", "BRK-B", "JNJ", "NVDA"]
    assert (await in_the_record(pool, wednesday)).startswith("computed on 2026-10-27 from SPY ")


async def test_a_redirected_question_goes_nowhere_else(database, pool, clock):
    """A redirect is not followed, because the other address must not get the key."""

    def answers(request: Request) -> Answered:
        elsewhere.append(request.path)
        return Answered(status=302, headers={"location": "/elsewhere"})

    elsewhere: list[str] = []
    async with (
        ProviderServer() as provider,
        open_context(database=database, pool=pool, clock=clock, base_url=provider.url) as context,
    ):
        provider.answers = answers
        with pytest.raises(ProviderUnavailable, match="302"):
            await context.model_clients["main"].ask("You are an analyst.", "Choose.")
    assert elsewhere == ["/v1/chat/completions"]


async def test_a_session_that_is_there_twice(database, pool, clock):
    """
    Two bars of one session, in two spellings of its date, make the series unreadable: neither is
    known to be right.
    """
    twice = {
        day: {"1. open": price, "4. close": price}
        for day, price in (("2026-10-23", "1.5"), ("20261023", "2.5"))
    }
    async with (
        ProviderServer() as provider,
        open_context(database=database, pool=pool, clock=clock, base_url=provider.url) as context,
    ):
        provider.play(Answered(json.dumps({"Time Series (Daily)": twice}).encode()))
        with pytest.raises(ProviderUnavailable, match="'20261023' is not a day"):
            await context.prices.bars("SPY", since=clock.now())
    assert await rows(pool, "SELECT DISTINCT outcome FROM operations.provider_requests") == [
        (RequestOutcome.FAILED,)
    ]


async def test_a_slow_answer_is_whole_in_the_end(on_stage, clock, monkeypatch):
    """A client that waits for the simulators' slow bytes gets each of them once."""
    monkeypatch.setattr(app.simulation.provider_simulators, "HANG_SECONDS", 0.05)
    monkeypatch.setattr(app.simulation.provider_simulators, "TRICKLE_SECONDS", 0.01)
    async with on_stage([FaultRule(provider="alphavantage", fault="slow", symbol="UPS")]) as stage:
        slow = await stage.context.prices.bars("UPS", since=clock.now())
        assert isinstance(slow, alpha_vantage.BarsAnswer)
        assert (slow.bars[-1].trading_day, slow.bars[-1].close) == (
            date(2026, 10, 23),
            Decimal("100.5000"),
        )
        assert stage.requests() == ["UPS"]

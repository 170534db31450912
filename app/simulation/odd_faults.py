"""
Odd faults: answers that are partly readable, partly right, or misleading.

They come from public bug reports. Most faults of `app.simulation.faults` make the whole answer
unusable. Most odd faults leave a large part of it unchanged, so the code that reads the answer must
decide which parts to use. No fault changes the market: the bars of `app.simulation.market` are the
correct ones.
"""

from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import msgspec
from msgspec.structs import replace

from app.domain import calendar
from app.domain.splits import intended_factor
from app.simulation.faults import (
    DIVIDENDS,
    FAULTS,
    SERIES,
    UNKNOWN,
    Dividends,
    Fault,
    Picks,
    Series,
    SimulatedReply,
    SimulatedRequest,
    Splits,
    answer_notice,
    change_bars,
    change_choice,
    change_dividends,
    change_splits,
    json_reply,
)
from app.simulation.market import BENCHMARK_TICKER, SHARES, alpha_vantage_bar

# Notices in other words than those of `app.simulation.faults`. The rules of
# `app.providers.alpha_vantage_answers` must find out what each of them means.
THROTTLE_PREMIUM = (
    "Minute-level rate limit exceeded for the free tier. Please wait, or subscribe to a premium "
    "plan at https://www.alphavantage.co/premium/ for a higher limit."
)
THROTTLE_PLAN = (
    "You have exceeded the rate limit per minute for your plan, 5 requests per MINUTE. Please "
    "upgrade to one of the premium plans, or try again in a minute."
)
THROTTLE_BURSTY = (
    "Burst pattern detected: please spread your requests over time. Premium members are not "
    "throttled this way."
)
UNHEARD_OF = (
    "We are seeing exceptionally high demand. Your request was queued and could not be served in "
    "time."
)
ERROR_UNHEARD_OF = (
    "Our data warehouse is being refreshed. Please retry your request in a few moments."
)

# With the fault "very_late_split", a split is listed only when its day is longer ago than this.
# (With "late_split" of `app.simulation.faults`, the delay is five days.) So on the second Sunday of
# a fortnight, the splits of the first Tuesday and of all later days are not listed yet.
VERY_LATE_SPLIT_DELAY = timedelta(days=12)

# The amount by which the provider corrects a close, in the currency of the bars.
CORRECTED_BY = Decimal("0.03")

# How long the simulated model takes to answer with the fault "thinks", in seconds of simulated
# time. It is this long because an earlier version of the service allowed less time for a question.
THINKING_SECONDS = 90.0

# These factors are roundings of 1/15 and 1/3. A program that reads the answer takes them as exactly
# 1/15 and 1/3. No two factors with four decimals have the product 1/15 or 1/3, so the fault
# "split_in_two" leaves such a factor unchanged, and adds two rows (`_rows_with_same_product`).
_ROUNDED_FACTORS = ("0.0667", "0.3333")

TextChange = Callable[[str, dict[str, Any], SimulatedRequest], str]


def change_text(change: TextChange) -> Fault:
    """
    Return a fault that replaces the text of an answer.

    `change` receives the text, the decoded answer and the request. Its result may be JSON that no
    encoder would write, such as an object with a member twice.
    """

    def fault(good: SimulatedReply, request: SimulatedRequest) -> SimulatedReply:
        text = good.body.decode()
        return replace(good, body=change(text, msgspec.json.decode(text), request).encode())

    return fault


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _add_member(text: str, *, before: str, name: str, value: str) -> str:
    """Return JSON text with the member `"name":"value"` added after the first `before`."""
    return text.replace(before, f'{before},"{name}":"{value}"', 1)


def _session_twice(text: str, answer: dict[str, Any], _: SimulatedRequest) -> str:
    """Return the text with a second, wrong bar of the newest session after the right one."""
    if not answer.get(SERIES):
        return text
    day, bar = next(iter(answer[SERIES].items()))
    right_bar = f'"{day}":{_json(bar)}'
    wrong_close = f"{Decimal(bar['4. close']) * Decimal('1.6162'):.4f}"
    wrong_bar = f'"{day}":{_json({**bar, "4. close": wrong_close})}'
    return text.replace(right_bar, f"{right_bar},{wrong_bar}", 1)


def _close_twice(text: str, answer: dict[str, Any], _: SimulatedRequest) -> str:
    if not answer.get(SERIES):
        return text
    bar = next(iter(answer[SERIES].values()))
    close = bar["4. close"]
    wrong_close = f"{Decimal(close) / 2:.4f}"
    return _add_member(text, before=f'"4. close":"{close}"', name="4. close", value=wrong_close)


def _symbol_twice(text: str, answer: dict[str, Any], request: SimulatedRequest) -> str:
    name = "2. Symbol" if SERIES in answer else "symbol"
    other = _other_ticker(request)
    return _add_member(text, before=f'"{name}":"{request.symbol}"', name=name, value=other)


def _newest_value_twice(name: str, value: str) -> TextChange:
    """Return a change that gives the newest row of a list a second member `name`, with `value`."""

    def change(text: str, answer: dict[str, Any], _: SimulatedRequest) -> str:
        rows = answer.get("data")
        if not rows or name not in rows[0]:
            return text
        before = f'"{name}":"{rows[0][name]}"'
        return _add_member(text, before=before, name=name, value=value)

    return change


def _other_ticker(request: SimulatedRequest) -> str:
    """Return a ticker other than the requested one. It is the same for a whole day."""
    excluded = (BENCHMARK_TICKER, _ticker(request))
    others = [ticker for ticker in SHARES if ticker not in excluded]
    rng = Random(f"other/{request.symbol}/{calendar.new_york_date(request.at)}")  # noqa: S311
    return rng.choice(others)


def _ticker(request: SimulatedRequest) -> str:
    """Return the requested ticker in the market's spelling, with a dot."""
    return request.symbol.replace("-", ".")


def _other_symbol(good: SimulatedReply, request: SimulatedRequest) -> SimulatedReply:
    """Return a correct answer about another ticker, with the symbol of that ticker."""
    if request.market is None:
        return good
    answer, other = msgspec.json.decode(good.body), _other_ticker(request)
    today = calendar.new_york_date(request.at)
    if SERIES in answer:
        bars = request.market.bars(other, today - timedelta(days=1))
        series = {str(day): alpha_vantage_bar(bar) for day, bar in reversed(bars)}
        return json_reply(
            {"Meta Data": {**answer["Meta Data"], "2. Symbol": other}, SERIES: series}
        )
    if request.function == DIVIDENDS:
        rows = request.market.dividends_known(other, request.at)
        return json_reply({"symbol": other, "data": rows})
    if "data" in answer:
        listed = reversed(request.market.splits(other, today))
        data = [{"effective_date": str(day), "split_factor": factor} for day, factor in listed]
        return json_reply({"symbol": other, "data": data})
    return good


def _change_bar(index: int, values: dict[str, str]) -> Fault:
    """Return a fault that sets members of one bar; index 0 is the newest."""

    def change(series: Series, _: SimulatedRequest) -> Series:
        if index >= len(series):
            return series
        day = list(series)[index]
        return {**series, day: {**series[day], **values}}

    return change_bars(change)


def _add_saturday(series: Series, request: SimulatedRequest) -> Series:
    """Return the series with a bar of the last Saturday before today."""
    day = calendar.new_york_date(request.at) - timedelta(days=1)
    while day.weekday() != 5:
        day -= timedelta(days=1)
    bar = dict.fromkeys(("1. open", "2. high", "3. low", "4. close"), "90.0000")
    with_saturday = {**series, str(day): {**bar, "5. volume": "0"}}
    return dict(sorted(with_saturday.items(), reverse=True))


def _restate(series: Series, request: SimulatedRequest) -> Series:
    """
    Return the series restated for splits.

    As soon as the series has the session of a split, every bar before that session is divided by
    the split's factor.
    """
    if request.market is None or not series:
        return series
    newest = date.fromisoformat(max(series))
    listed = request.market.splits(_ticker(request), newest)
    return {day: _divide(bar, date.fromisoformat(day), listed) for day, bar in series.items()}


def _divide(bar: dict[str, str], day: date, listed: list[tuple[date, str]]) -> dict[str, str]:
    factor = Decimal(1)
    for effective_date, text in listed:
        if day < effective_date:
            factor *= intended_factor(Decimal(text))
    if factor == 1:
        return bar
    divided = {name: f"{Decimal(text) / factor:.4f}" for name, text in bar.items()}
    return {**divided, "5. volume": bar["5. volume"]}


def _correct_baseline(series: Series, request: SimulatedRequest) -> Series:
    """Change the close of the week's baseline session. On Monday, return the series unchanged."""
    today = calendar.new_york_date(request.at)
    monday = today - timedelta(days=today.weekday())
    sessions = [day for day in series if day < str(monday)]
    if not sessions or today == monday:
        return series
    baseline = max(sessions)
    bar = series[baseline]
    close = f"{Decimal(bar['4. close']) + CORRECTED_BY:.4f}"
    return {**series, baseline: {**bar, "4. close": close}}


def _unreadable_factor(listed: Splits, _: SimulatedRequest) -> Splits:
    """Return the splits with an unreadable factor in the newest row."""
    return [{**split, "split_factor": "n/a"} for split in listed[:1]] + listed[1:]


def _change_newest_dividend(**values: str) -> Fault:
    """Return a fault that sets members of the newest dividend."""

    def change(listed: Dividends, _: SimulatedRequest) -> Dividends:
        return [{**row, **values} for row in listed[:1]] + listed[1:]

    return change_dividends(change)


def _add_old_dividend(listed: Dividends, _: SimulatedRequest) -> Dividends:
    """Return the dividends with one of 1999 whose amount is unknown."""
    old = {"ex_dividend_date": "1999-06-28", "declaration_date": "None", "record_date": "None"}
    return [*listed, {**old, "payment_date": "None", "amount": "None"}]


def _split_in_two(listed: Splits, _: SimulatedRequest) -> Splits:
    rows: Splits = []
    for split in listed:
        rows += _rows_with_same_product(split)
    return rows


def _rows_with_same_product(split: dict[str, str]) -> Splits:
    """
    Return a split as two rows of one day; the product of their factors is the split's factor.

    For one of the `_ROUNDED_FACTORS` there are three rows: one with the factor itself, and two with
    factors whose product is 1.
    """
    if split["split_factor"] in _ROUNDED_FACTORS:
        factors = [split["split_factor"], "8.0000", "0.1250"]
    else:
        factors = [f"{Decimal(split['split_factor']) * 8:.4f}", "0.1250"]
    return [{**split, "split_factor": factor} for factor in factors]


def _without_very_late_splits(listed: Splits, request: SimulatedRequest) -> Splits:
    newest = calendar.new_york_date(request.at) - VERY_LATE_SPLIT_DELAY
    return [split for split in listed if date.fromisoformat(split["effective_date"]) < newest]


def _add_old_splits(*factors: str) -> Fault:
    """Return a fault that adds splits of one day in 1999, one for each factor."""
    old = [{"effective_date": "1999-06-28", "split_factor": factor} for factor in factors]
    return change_splits(lambda listed, _: [*listed, *old])


def _break_utf_8(good: SimulatedReply, _: SimulatedRequest) -> SimulatedReply:
    """Return the answer with a byte that is not UTF-8 in its last text."""
    place = good.body.rindex(b'"')
    return replace(good, body=good.body[:place] + b"\xe9" + good.body[place:])


def _change_usage(**counts: Any) -> Fault:
    """Return a fault that sets token counts."""

    def fault(good: SimulatedReply, _: SimulatedRequest) -> SimulatedReply:
        answer = msgspec.json.decode(good.body)
        return json_reply({**answer, "usage": {**answer["usage"], **counts}})

    return fault


def _replace_usage(value: object) -> Fault:
    return lambda good, _: json_reply({**msgspec.json.decode(good.body), "usage": value})


def _without_usage(good: SimulatedReply, _: SimulatedRequest) -> SimulatedReply:
    answer = msgspec.json.decode(good.body)
    del answer["usage"]
    return json_reply(answer)


def _split_content(choice: dict[str, Any], _: Picks) -> None:
    """Replace the text of the answer by two parts."""
    text = choice["message"]["content"]
    half = len(text) // 2
    choice["message"]["content"] = [
        {"type": "text", "text": text[:half]},
        {"type": "text", "text": text[half:]},
    ]


def _fence_content(choice: dict[str, Any], _: Picks) -> None:
    """Put the answer into a Markdown code block."""
    choice["message"]["content"] = f"```json\n{choice['message']['content']}\n```"


def _duplicate_pick_member(name: str, value: str) -> Fault:
    """Return a fault that gives the first pick a second member `name`, with the value `value`."""

    def change(choice: dict[str, Any], picks: Picks) -> None:
        message = choice["message"]
        before = f'"{name}":"{picks[0][name]}"'
        message["content"] = _add_member(message["content"], before=before, name=name, value=value)

    return change_choice(change)


def _filter_content(choice: dict[str, Any], _: Picks) -> None:
    choice["finish_reason"] = "content_filter"
    choice["message"] = {"role": "assistant", "content": "", "refusal": None}


ODD_ALPHA_VANTAGE_FAULTS: dict[str, Fault] = {
    "throttle_premium": answer_notice("Information", THROTTLE_PREMIUM),
    "throttle_plan": answer_notice("Note", THROTTLE_PLAN),
    "throttle_bursty": answer_notice("Information", THROTTLE_BURSTY),
    "unheard_of": answer_notice("Information", UNHEARD_OF),
    "error_unheard_of": answer_notice("Error Message", ERROR_UNHEARD_OF),
    "unknown_once": answer_notice("Error Message", UNKNOWN),
    "unknown_for_good": answer_notice("Error Message", UNKNOWN),
    "empty_object": lambda *_: json_reply({}),
    "session_twice": change_text(_session_twice),
    "close_twice": change_text(_close_twice),
    "symbol_twice": change_text(_symbol_twice),
    "factor_twice": change_text(_newest_value_twice("split_factor", "7.0000")),
    "other_symbol": _other_symbol,
    "old_bar_open_zero": _change_bar(62, {"1. open": "0.0000"}),
    "old_bar_close_unreadable": _change_bar(71, {"4. close": "None"}),
    "open_zero": _change_bar(0, {"1. open": "0.0000"}),
    "close_unreadable": _change_bar(0, {"4. close": "None"}),
    "saturday_bar": change_bars(_add_saturday),
    "restated": change_bars(_restate),
    "baseline_corrected": change_bars(_correct_baseline),
    "delisted_lately": change_bars(lambda series, _: dict(list(series.items())[2:])),
    "old_splits_clash": _add_old_splits("2.0000", "3.0000"),
    "old_split_unreadable": _add_old_splits("0.0000"),
    "split_unreadable": change_splits(_unreadable_factor),
    "split_in_two": change_splits(_split_in_two),
    "very_late_split": change_splits(_without_very_late_splits),
    "old_dividend_unreadable": change_dividends(_add_old_dividend),
    "dividend_unreadable": _change_newest_dividend(amount="n/a"),
    "dividend_undated": _change_newest_dividend(ex_dividend_date="None"),
    "amount_twice": change_text(_newest_value_twice("amount", "7.0000")),
    "not_utf_8": _break_utf_8,
}
ODD_OPENAI_FAULTS: dict[str, Fault] = {
    "usage_float": _change_usage(prompt_tokens=14417.92),
    "usage_negative": _change_usage(prompt_tokens=-1, completion_tokens=-1),
    "usage_text": _change_usage(prompt_tokens="many"),
    "usage_huge": _change_usage(prompt_tokens=2**63),
    "usage_null": _replace_usage(None),
    "usage_list": _replace_usage([1, 2]),
    "usage_absent": _without_usage,
    "content_parts": change_choice(_split_content),
    "fenced": change_choice(_fence_content),
    "thinks": lambda good, _: replace(good, thinking_seconds=THINKING_SECONDS),
    "content_filter": change_choice(_filter_content),
    "ticker_twice": _duplicate_pick_member("ticker", "WMT"),
    "action_twice": _duplicate_pick_member("action", "HOLD"),
    "not_utf_8": _break_utf_8,
}
ODD_FAULTS = {"alphavantage": ODD_ALPHA_VANTAGE_FAULTS, "openai": ODD_OPENAI_FAULTS}
# Every fault that a script can name, by provider.
ALL_FAULTS = {
    provider: {**faults, **ODD_FAULTS.get(provider, {})} for provider, faults in FAULTS.items()
}

"""
Odd answers from public bug reports: each is readable in part, right in part, or says less than it seems to.

The faults of `app.simulation.faults` spoil an answer as a whole. Those here leave most of it as it was, so a reader
must decide what still counts. No fault changes the market: `app.simulation.market` stays the truth.
"""

from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import msgspec
from msgspec.structs import replace

from app.domain import calendar
from app.domain.splits import meant
from app.simulation.faults import (
    FAULTS,
    SERIES,
    UNKNOWN,
    Asked,
    Fault,
    Reply,
    bars,
    choice,
    notice,
    said,
    splits,
)
from app.simulation.market import MARKET, SHARES, as_listed

THROTTLE_PREMIUM = (
    "Minute-level rate limit exceeded for the free tier. Please wait, or subscribe to a premium plan at "
    "https://www.alphavantage.co/premium/ for a higher limit."
)
THROTTLE_PLAN = (
    "You have exceeded the rate limit per minute for your plan, 5 requests per MINUTE. Please upgrade to one of the "
    "premium plans, or try again in a minute."
)
THROTTLE_BURSTY = (
    "Burst pattern detected: please spread your requests over time. Premium members are not throttled this way."
)
UNHEARD_OF = "We are seeing exceptionally high demand. Your request was queued and could not be served in time."
ERROR_UNHEARD_OF = "Our data warehouse is being refreshed. Please retry your request in a few moments."

# How long after its day a split is first listed; the late split of `app.simulation.faults` has five days. Twelve days
# after the first Tuesday of a fortnight its second Sunday is over.
VERY_LATE = timedelta(days=12)

# A correction of a close by the provider, in the currency of the bars.
CORRECTED_BY = Decimal("0.03")

# How long a model may think, in seconds: longer than the time that a question once had.
THOUGHT = 90.0

# A factor that a provider wrote with four decimals and that means 1/n cannot be written as two factors.
_ROUNDED = ("0.0667", "0.3333")


def raw(change: Callable[[str, dict[str, Any], Asked], str]) -> Fault:
    """Return a fault that changes the text of an answer, to what no encoder would write."""

    def fault(good: Reply, asked: Asked) -> Reply:
        text = good.body.decode()
        return replace(good, body=change(text, msgspec.json.decode(text), asked).encode())

    return fault


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _session_twice(text: str, answer: dict[str, Any], _: Asked) -> str:
    """Return the text with another bar of the newest session behind it: the last is the wrong one."""
    if not answer.get(SERIES):
        return text
    day, bar = next(iter(answer[SERIES].items()))
    once = f'"{day}":{_json(bar)}'
    other = {**bar, "4. close": f"{Decimal(bar['4. close']) * Decimal('1.6162'):.4f}"}
    return text.replace(once, f'{once},"{day}":{_json(other)}', 1)


def _close_twice(text: str, answer: dict[str, Any], _: Asked) -> str:
    if not answer.get(SERIES):
        return text
    bar = next(iter(answer[SERIES].values()))
    once = f'"4. close":"{bar["4. close"]}"'
    return text.replace(once, f'{once},"4. close":"{Decimal(bar["4. close"]) / 2:.4f}"', 1)


def _symbol_twice(text: str, answer: dict[str, Any], asked: Asked) -> str:
    name = "2. Symbol" if SERIES in answer else "symbol"
    once = f'"{name}":"{asked.symbol}"'
    return text.replace(once, f'{once},"{name}":"{_other(asked)}"', 1)


def _factor_twice(text: str, answer: dict[str, Any], _: Asked) -> str:
    if not answer.get("data"):
        return text
    once = f'"split_factor":"{answer["data"][0]["split_factor"]}"'
    return text.replace(once, f'{once},"split_factor":"7.0000"', 1)


def _other(asked: Asked) -> str:
    """Return another ticker than the one that was asked about."""
    others = [ticker for ticker in SHARES if ticker not in (MARKET, asked.symbol.replace("-", "."))]
    return Random(f"other/{asked.symbol}/{calendar.today(asked.at)}").choice(others)  # noqa: S311


def _other_symbol(good: Reply, asked: Asked) -> Reply:
    """Return the answer about another ticker, which it names."""
    answer, other = msgspec.json.decode(good.body), _other(asked)
    if asked.market is None:
        return good
    if SERIES in answer:
        last = calendar.today(asked.at) - timedelta(days=1)
        listed = {str(day): as_listed(bar) for day, bar in reversed(asked.market.bars(other, last))}
        return said({"Meta Data": {**answer["Meta Data"], "2. Symbol": other}, SERIES: listed})
    if "data" in answer:
        found = reversed(asked.market.splits(other, calendar.today(asked.at)))
        data = [{"effective_date": str(day), "split_factor": factor} for day, factor in found]
        return said({"symbol": other, "data": data})
    return good


def _nth(number: int, **values: str) -> Fault:
    """Return a fault that changes one bar, counted from the newest."""
    return bars(
        lambda series, _: {
            day: {**bar, **(values if place == number else {})} for place, (day, bar) in enumerate(series.items())
        }
    )


def _with_a_saturday(series: dict[str, dict[str, str]], asked: Asked) -> dict[str, dict[str, str]]:
    day = calendar.today(asked.at) - timedelta(days=1)
    while day.weekday() != 5:
        day -= timedelta(days=1)
    odd = dict.fromkeys(("1. open", "2. high", "3. low", "4. close"), "90.0000")
    return dict(sorted({**series, str(day): {**odd, "5. volume": "0"}}.items(), reverse=True))


def _restated(series: dict[str, dict[str, str]], asked: Asked) -> dict[str, dict[str, str]]:
    """Return the series with every bar before a split divided by its factor, once the split's own session is there."""
    if asked.market is None or not series:
        return series
    newest = date.fromisoformat(max(series))
    known = asked.market.splits(asked.symbol.replace("-", "."), newest)
    return {day: _divided(bar, date.fromisoformat(day), known) for day, bar in series.items()}


def _divided(bar: dict[str, str], day: date, known: list[tuple[date, str]]) -> dict[str, str]:
    factor = Decimal(1)
    for effective, text in known:
        if day < effective:
            factor *= meant(Decimal(text))
    if factor == 1:
        return bar
    return {name: text if name == "5. volume" else f"{Decimal(text) / factor:.4f}" for name, text in bar.items()}


def _baseline_corrected(series: dict[str, dict[str, str]], asked: Asked) -> dict[str, dict[str, str]]:
    """Return the series with another close of the week's baseline session, from Tuesday on."""
    today = calendar.today(asked.at)
    monday = today - timedelta(days=today.weekday())
    sessions = [day for day in series if day < str(monday)]
    if not sessions or today == monday:
        return series
    bar = series[max(sessions)]
    return {**series, max(sessions): {**bar, "4. close": f"{Decimal(bar['4. close']) + CORRECTED_BY:.4f}"}}


def _is_listed(split: dict[str, str], asked: Asked, late: timedelta) -> bool:
    return date.fromisoformat(split["effective_date"]) + late < calendar.today(asked.at)


def _in_two(split: dict[str, str]) -> list[dict[str, str]]:
    """Return a split as two rows of one day whose product is its factor, or three where it is rounded."""
    if split["split_factor"] in _ROUNDED:
        factors = [split["split_factor"], "8.0000", "0.1250"]
    else:
        factors = [f"{Decimal(split['split_factor']) * 8:.4f}", "0.1250"]
    return [{**split, "split_factor": factor} for factor in factors]


def _with_old(*factors: str) -> Fault:
    more = [{"effective_date": "1999-06-28", "split_factor": factor} for factor in factors]
    return splits(lambda listed, _: [*listed, *more])


def _not_utf_8(good: Reply, _: Asked) -> Reply:
    """Return the answer with a byte of another encoding in its last text."""
    place = good.body.rindex(b'"')
    return replace(good, body=good.body[:place] + b"\xe9" + good.body[place:])


def _usage(**counts: Any) -> Fault:
    def fault(good: Reply, _: Asked) -> Reply:
        answer = msgspec.json.decode(good.body)
        return said({**answer, "usage": {**answer["usage"], **counts}})

    return fault


def _usage_is(value: object) -> Fault:
    return lambda good, _: said({**msgspec.json.decode(good.body), "usage": value})


def _without_usage(good: Reply, _: Asked) -> Reply:
    answer = msgspec.json.decode(good.body)
    del answer["usage"]
    return said(answer)


def _in_parts(one: dict[str, Any], _: object) -> None:
    text = one["message"]["content"]
    half = len(text) // 2
    one["message"]["content"] = [{"type": "text", "text": text[:half]}, {"type": "text", "text": text[half:]}]


def _member_twice(name: str, other: str) -> Fault:
    """Return a fault that names a member of the first pick twice, with two values."""

    def change(one: dict[str, Any], picks: list[dict[str, Any]]) -> None:
        once = f'"{name}":"{picks[0][name]}"'
        text = one["message"]["content"]
        one["message"]["content"] = text.replace(once, f'{once},"{name}":"{other}"', 1)

    return choice(change)


def _filtered(one: dict[str, Any], _: object) -> None:
    one.update(finish_reason="content_filter", message={"role": "assistant", "content": "", "refusal": None})


ALPHA_VANTAGE: dict[str, Fault] = {
    "throttle_premium": notice("Information", THROTTLE_PREMIUM),
    "throttle_plan": notice("Note", THROTTLE_PLAN),
    "throttle_bursty": notice("Information", THROTTLE_BURSTY),
    "unheard_of": notice("Information", UNHEARD_OF),
    "error_unheard_of": notice("Error Message", ERROR_UNHEARD_OF),
    "unknown_once": notice("Error Message", UNKNOWN),
    "unknown_for_good": notice("Error Message", UNKNOWN),
    "empty_object": lambda *_: said({}),
    "session_twice": raw(_session_twice),
    "close_twice": raw(_close_twice),
    "symbol_twice": raw(_symbol_twice),
    "factor_twice": raw(_factor_twice),
    "other_symbol": _other_symbol,
    "old_bar_open_zero": _nth(62, **{"1. open": "0.0000"}),
    "old_bar_close_unreadable": _nth(71, **{"4. close": "None"}),
    "open_zero": _nth(0, **{"1. open": "0.0000"}),
    "close_unreadable": _nth(0, **{"4. close": "None"}),
    "saturday_bar": bars(_with_a_saturday),
    "restated": bars(_restated),
    "baseline_corrected": bars(_baseline_corrected),
    "delisted_lately": bars(lambda series, _: dict(list(series.items())[2:])),
    "old_splits_clash": _with_old("2.0000", "3.0000"),
    "old_split_unreadable": _with_old("0.0000"),
    "split_unreadable": splits(lambda listed, _: [{**one, "split_factor": "n/a"} for one in listed[:1]] + listed[1:]),
    "split_in_two": splits(lambda listed, _: [row for one in listed for row in _in_two(one)]),
    "very_late_split": splits(lambda listed, asked: [one for one in listed if _is_listed(one, asked, VERY_LATE)]),
    "not_utf_8": _not_utf_8,
}
OPENAI: dict[str, Fault] = {
    "usage_float": _usage(prompt_tokens=14417.92),
    "usage_negative": _usage(prompt_tokens=-1, completion_tokens=-1),
    "usage_text": _usage(prompt_tokens="many"),
    "usage_huge": _usage(prompt_tokens=2**63),
    "usage_null": _usage_is(None),
    "usage_list": _usage_is([1, 2]),
    "usage_absent": _without_usage,
    "content_parts": choice(_in_parts),
    "fenced": choice(
        lambda one, _: one["message"].update(content="```json\n{}\n```".replace("{}", one["message"]["content"]))
    ),
    "thinks": lambda good, _: replace(good, thinks=THOUGHT),
    "content_filter": choice(_filtered),
    "ticker_twice": _member_twice("ticker", "WMT"),
    "action_twice": _member_twice("action", "HOLD"),
    "not_utf_8": _not_utf_8,
}
ODD_FAULTS = {"alphavantage": ALPHA_VANTAGE, "openai": OPENAI}
# Every fault that a script can name, by provider.
EVERY = {provider: {**FAULTS[provider], **odd} for provider, odd in ODD_FAULTS.items()}

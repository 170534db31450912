"""
What providers do wrong: every fault by name, a script of them, and a chance of them.

A fault makes of the good answer the bad one, byte for byte as providers are known to give it. A script is a list of
rules, as JSON; the first that fits a request decides:

    [{"provider": "alphavantage", "fault": "late_bar", "symbol": "MSFT",
      "since": "2026-11-03T00:00:00-05:00", "until": "2026-11-03T16:15:00-05:00"},
     {"provider": "openai", "fault": "refusal", "times": 2}]

`function`, `symbol`, `since`, `until` and `times` may be left out: whatever is asked, always, without end.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from random import Random
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from app.domain import calendar
from app.errors import ConfigurationError
from app.simulation.market import Market

BURST = (
    "Thank you for using Alpha Vantage! Please consider spreading out your free API requests more sparingly "
    "(1 request per second). You may subscribe to any of the premium plans at https://www.alphavantage.co/premium/ to "
    "lift the free key rate limit (25 requests per day) and instantly remove all daily rate limits."
)
QUOTA = (
    "We have detected your API key as {key} and our standard API rate limit is 25 requests per day. Please subscribe "
    "to any of the premium plans at https://www.alphavantage.co/premium/ to instantly remove all daily rate limits."
)
PREMIUM = (
    "Thank you for using Alpha Vantage! This is a premium endpoint. You may subscribe to any of the premium plans at "
    "https://www.alphavantage.co/premium/ to instantly unlock all premium endpoints"
)
NOTE = (
    "Thank you for using Alpha Vantage! Our standard API call frequency is 5 calls per minute and 500 calls per day. "
    "Please visit https://www.alphavantage.co/premium/ if you would like to target a higher API call frequency."
)
UNKNOWN = (
    "Invalid API call. Please retry or visit the documentation (https://www.alphavantage.co/documentation/) for "
    "TIME_SERIES_DAILY."
)
BAD_KEY = (
    "the parameter apikey is invalid or missing. Please claim your free API key on "
    "(https://www.alphavantage.co/support/#api-key). It should take less than 20 seconds."
)
# How late a late split is listed.
_LISTED_LATE = timedelta(days=5)
HTML = b"<!DOCTYPE html><html><head><title>Sorry</title></head><body><h1>Something went wrong</h1></body></html>"
SERIES = "Time Series (Daily)"


class Reply(Struct, frozen=True, kw_only=True):
    """
    What goes over the wire. `cut` ends it half-way, `hang` never begins it, `trickle` sends it byte by byte.

    `thinks` is for how many seconds of a rehearsal's time it is thought about first.
    """

    status: int = 200
    body: bytes
    headers: Mapping[str, str] = MappingProxyType({"content-type": "application/json"})
    cut: bool = False
    hang: bool = False
    trickle: bool = False
    thinks: float = 0.0


class Asked(Struct, frozen=True, kw_only=True):
    """
    A request, as far as faults care: to whom, for what, with which key, about what, and when.

    `market` is there where it is known: some faults tell of other tickers or of splits.
    """

    provider: str
    function: str = ""
    key: str
    symbol: str
    at: datetime
    market: Market | None = None


Fault = Callable[[Reply, Asked], Reply]


def said(answer: object, status: int = 200) -> Reply:
    """Return a reply that says `answer` in JSON."""
    return Reply(status=status, body=msgspec.json.encode(answer))


def notice(member: str, text: str) -> Fault:
    """Return a fault that answers with a notice, which may hold the key."""
    return lambda _, asked: said({member: text.format(key=asked.key)})


def error(status: int, message: str, code: str | None = None) -> Fault:
    """Return a fault that answers with an error as OpenAI writes it."""
    told = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    return lambda *_: said(told, status)


def bars(change: Callable[[dict[str, dict[str, str]], Asked], Any]) -> Fault:
    """Return a fault that changes the daily series, newest first."""

    def fault(good: Reply, asked: Asked) -> Reply:
        answer = msgspec.json.decode(good.body)
        if SERIES not in answer:
            return good
        return said({**answer, SERIES: change(answer[SERIES], asked)})

    return fault


def splits(change: Callable[[list[dict[str, str]], Asked], Any]) -> Fault:
    """Return a fault that changes the list of splits, newest first."""

    def fault(good: Reply, asked: Asked) -> Reply:
        answer = msgspec.json.decode(good.body)
        return said({**answer, "data": change(answer["data"], asked)}) if "data" in answer else good

    return fault


def _old(split: dict[str, str], asked: Asked) -> bool:
    return date.fromisoformat(split["effective_date"]) < calendar.today(asked.at) - _LISTED_LATE


def content(change: Callable[[list[dict[str, Any]]], object]) -> Fault:
    """Return a fault that changes what the model picked."""
    return choice(lambda one, picks: one["message"].update(content=msgspec.json.encode(change(picks)).decode()))


def choice(change: Callable[[dict[str, Any], list[dict[str, Any]]], Any]) -> Fault:
    """Return a fault that changes the model's choice in place."""

    def fault(good: Reply, _: Asked) -> Reply:
        answer = msgspec.json.decode(good.body)
        change(answer["choices"][0], msgspec.json.decode(answer["choices"][0]["message"]["content"])["picks"])
        return said(answer)

    return fault


def _last(**values: Any) -> Fault:
    return bars(lambda series, _: {day: {**bar, **(values if n == 0 else {})} for n, (day, bar) in _numbered(series)})


def _numbered(series: dict[str, dict[str, str]]) -> list[tuple[int, tuple[str, dict[str, str]]]]:
    return list(enumerate(series.items()))


def _first(**values: str) -> Fault:
    return content(lambda picks: {"picks": [{**picks[0], **values}, *picks[1:]]})


ANYWHERE: dict[str, Fault] = {
    "html": lambda good, _: replace(good, body=HTML, headers={"content-type": "text/html"}),
    "empty_body": lambda good, _: replace(good, body=b""),
    "truncated_body": lambda good, _: replace(good, body=good.body[: len(good.body) // 2]),
    "list": lambda good, _: replace(good, body=b"[1, 2, 3]"),
    "gzip": lambda good, _: replace(good, headers={**good.headers, "content-encoding": "gzip"}),
    "http_429": error(429, "Rate limit reached.", "rate_limit_exceeded"),
    "http_500": error(500, "The server had an error while processing your request."),
    "http_503": error(503, "The engine is currently overloaded."),
    "redirect": lambda good, _: replace(good, status=302, headers={"location": "https://example.org/"}),
    "cut": lambda good, _: replace(good, cut=True),
    "hang": lambda good, _: replace(good, hang=True),
    "slow": lambda good, _: replace(good, trickle=True),
}
ALPHA_VANTAGE: dict[str, Fault] = {
    **ANYWHERE,
    "unknown": notice("Error Message", UNKNOWN),
    "bad_key": notice("Error Message", BAD_KEY),
    "burst": notice("Information", BURST),
    "quota": notice("Information", QUOTA),
    "premium": notice("Information", PREMIUM),
    "note": notice("Note", NOTE),
    "information": notice("Information", "We are upgrading our systems. Your key {key} will work again soon."),
    "empty": lambda *_: said({}),
    "no_bars": bars(lambda *_: {}),
    "series_is_text": bars(lambda *_: "none"),
    "bars_are_text": bars(lambda series, _: dict.fromkeys(series, "none")),
    "bad_date": bars(lambda series, _: {f"{day}T00": bar for day, bar in series.items()}),
    "late_bar": bars(lambda series, _: dict(list(series.items())[1:])),
    "partial_bar": bars(lambda series, asked: {str(calendar.today(asked.at)): next(iter(series.values())), **series}),
    "delisted": bars(lambda series, _: dict(list(series.items())[30:])),
    "out_of_order": bars(lambda series, _: dict(sorted(series.items(), key=lambda item: item[1]["5. volume"]))),
    "no_close": bars(lambda series, _: {day: {"1. open": bar["1. open"]} for day, bar in series.items()}),
    "close_is_a_number": _last(**{"4. close": 244.84}),
    "close_is_zero": _last(**{"4. close": "0.0000"}),
    "close_is_negative": _last(**{"4. close": "-244.8400"}),
    "close_is_not_a_number": _last(**{"4. close": "NaN"}),
    "close_is_scientific": _last(**{"4. close": "2.4484e2"}),
    "close_has_a_comma": _last(**{"4. close": "1,244.84"}),
    "no_splits": splits(lambda *_: []),
    "late_split": splits(lambda listed, asked: [one for one in listed if _old(one, asked)]),
    "splits_are_text": splits(lambda *_: "none"),
    "split_twice": splits(lambda listed, _: [*listed, *({**one, "split_factor": "7.0000"} for one in listed)]),
    "factor_is_zero": splits(lambda listed, _: [{**one, "split_factor": "0.0000"} for one in listed]),
    "factor_is_a_number": splits(lambda listed, _: [{**one, "split_factor": 2} for one in listed]),
    "close_is_the_key": bars(
        lambda series, asked: {day: {**bar, "4. close": asked.key} for day, bar in series.items()}
    ),
}
OPENAI: dict[str, Fault] = {
    **ANYWHERE,
    "bad_key": lambda _, asked: error(401, f"Incorrect API key provided: {asked.key}.", "invalid_api_key")(_, asked),
    "unknown_model": error(404, "The model does not exist.", "model_not_found"),
    "bad_request": error(400, "Unsupported value: 'temperature'.", "unsupported_value"),
    "no_credit": error(429, "You exceeded your current quota.", "insufficient_quota"),
    "no_choices": lambda *_: said({"error": {"message": "upstream failed", "code": 502}}),
    "truncated": choice(lambda one, _: one.update(finish_reason="length")),
    "refusal": choice(
        lambda one, _: one.update(message={"role": "assistant", "content": None, "refusal": "I can't help with that."})
    ),
    "no_content": choice(lambda one, _: one["message"].update(content=None)),
    "prose": choice(lambda one, _: one["message"].update(content="Sure! My three picks are Apple, Ford and 3M.")),
    "two_picks": content(lambda picks: {"picks": picks[:2]}),
    "four_picks": content(lambda picks: {"picks": [*picks, picks[0]]}),
    "repeated": content(lambda picks: {"picks": [picks[0], picks[0], picks[1]]}),
    "benchmark": _first(ticker="SPY"),
    "unknown_action": _first(action="HOLD"),
    "bad_ticker": _first(ticker="Apple Inc."),
    "no_reasoning": _first(reasoning="   "),
    "nul": _first(reasoning="It will rise.\0"),
    "surrogate": choice(lambda one, picks: one["message"].update(content=_with_surrogate(picks))),
    "extra_member": content(lambda picks: {"picks": picks, "confidence": "high"}),
    "unknown_ticker": _first(ticker="ZZZZ"),
}
FAULTS = {"alphavantage": ALPHA_VANTAGE, "openai": OPENAI}


def _with_surrogate(picks: list[dict[str, Any]]) -> str:
    text = msgspec.json.encode({"picks": picks}).decode()
    return text.replace('"reasoning":"', '"reasoning":"\\ud800 ', 1)


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """When which fault happens."""

    provider: str
    fault: str
    function: str | None = None
    symbol: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    times: int | None = None

    def fits(self, asked: Asked) -> bool:
        """Return whether this rule is about a request."""
        return (
            self.provider == asked.provider
            and self.function in (None, asked.function)
            and self.symbol in (None, asked.symbol)
            and (self.since is None or self.since <= asked.at)
            and (self.until is None or asked.at < self.until)
        )


def read(text: bytes, known: Mapping[str, Mapping[str, Fault]]) -> list[Rule]:
    """Return the rules of a script; refuse one that names what is not `known`."""
    try:
        rules = msgspec.json.decode(text, type=list[Rule])
    except msgspec.DecodeError as wrong:
        raise ConfigurationError(f"The script of faults is not as it must be: {wrong}.") from None
    for rule in rules:
        if rule.provider not in known:
            raise ConfigurationError(f"{rule.provider!r} is no provider: alphavantage or openai.")
        if rule.fault not in known[rule.provider]:
            names = ", ".join(known[rule.provider])
            raise ConfigurationError(f"{rule.fault!r} is no fault of {rule.provider}: {names}.")
    return rules


class Script:
    """What goes wrong: by rules, and with a seed now and then by chance."""

    def __init__(self, rules: Sequence[Rule] = (), seed: str = "") -> None:
        self.rules, self.seed = rules, seed
        self._used = [0] * len(rules)

    def fault(self, asked: Asked) -> str | None:
        """Return the name of the fault of a request, or None; each call uses one of a rule's `times`."""
        for number, rule in enumerate(self.rules):
            if rule.fits(asked) and (rule.times is None or self._used[number] < rule.times):
                self._used[number] += 1
                return rule.fault
        return self._by_chance(asked) if self.seed else None

    def _by_chance(self, asked: Asked) -> str | None:
        chance = Random(f"{self.seed}/{asked.provider}/{asked.symbol}/{asked.at}")  # noqa: S311
        if asked.provider == "openai":
            return chance.choice(_MODEL_SLIPS) if chance.random() < 0.25 else None
        if chance.random() < 0.04:
            return chance.choice(_PASSING)
        if asked.function == "SPLITS":
            return "late_split" if Random(f"{self.seed}/{asked.symbol}").random() < 0.3 else None  # noqa: S311
        return self._of_the_morning(asked)

    def _of_the_morning(self, asked: Asked) -> str | None:
        """Return what is wrong with a ticker's bars all morning: late for some, never there for a few."""
        day = calendar.today(asked.at)
        draw = Random(f"{self.seed}/{asked.symbol}/{day}").random()  # noqa: S311
        if draw < 0.01 or (draw < 0.05 and asked.at < calendar.at(day, time(16, 15))):
            return "late_bar"
        return "partial_bar" if draw > 0.9 else None


# What happens to everybody now and then. Nothing hangs here: a hang takes its real time even in told time.
_PASSING = ("burst", "http_500", "http_503", "html", "truncated_body", "cut", "information", "empty")
_MODEL_SLIPS = ("two_picks", "repeated", "benchmark", "refusal", "truncated", "prose", "unknown_ticker", "http_500")

"""
Fault injection: the faults of providers by name, and the choice of the fault for each request.

A fault is a function that turns a correct reply into a wrong one, with exactly the bytes that
providers are known to send. A fault script is a list of rules in JSON. The first rule that matches
a request chooses its fault:

    [{"provider": "alphavantage", "fault": "late_bar", "symbol": "MSFT",
      "since": "2026-11-03T00:00:00-05:00", "until": "2026-11-03T16:15:00-05:00"},
     {"provider": "openai", "fault": "refusal", "times": 2}]

`function`, `symbol`, `since`, `until` and `times` are optional. Without them a rule matches every
function and symbol, at any time, and any number of requests. `since` and `until` are times with
their offset from UTC. A request at `until` does not match any more. `times` is at least 1.

The provider `timestamp` is the time-stamping authority. Its faults are chosen only by rules, never
at random.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from random import Random
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from app.domain import calendar
from app.errors import ConfigurationError
from app.simulation import dividends, timestamp_authority
from app.simulation.market import Market

# Notices and errors in Alpha Vantage's own words.
BURST = (
    "Thank you for using Alpha Vantage! Please consider spreading out your free API requests more "
    "sparingly (1 request per second). You may subscribe to any of the premium plans at "
    "https://www.alphavantage.co/premium/ to lift the free key rate limit (25 requests per day) "
    "and instantly remove all daily rate limits."
)
QUOTA = (
    "We have detected your API key as {key} and our standard API rate limit is 25 requests per "
    "day. Please subscribe to any of the premium plans at https://www.alphavantage.co/premium/ to "
    "instantly remove all daily rate limits."
)
PREMIUM = (
    "Thank you for using Alpha Vantage! This is a premium endpoint. You may subscribe to any of "
    "the premium plans at https://www.alphavantage.co/premium/ to instantly unlock all premium "
    "endpoints"
)
NOTE = (
    "Thank you for using Alpha Vantage! Our standard API call frequency is 5 calls per minute and "
    "500 calls per day. Please visit https://www.alphavantage.co/premium/ if you would like to "
    "target a higher API call frequency."
)
UNKNOWN = (
    "Invalid API call. Please retry or visit the documentation "
    "(https://www.alphavantage.co/documentation/) for TIME_SERIES_DAILY."
)
BAD_KEY = (
    "the parameter apikey is invalid or missing. Please claim your free API key on "
    "(https://www.alphavantage.co/support/#api-key). It should take less than 20 seconds."
)
DIVIDENDS = "DIVIDENDS"
# With the fault `late_split`, a split is listed only when its day is longer ago than this.
_LATE_SPLIT_DELAY = timedelta(days=5)
HTML = (
    b"<!DOCTYPE html><html><head><title>Sorry</title></head>"
    b"<body><h1>Something went wrong</h1></body></html>"
)
SERIES = "Time Series (Daily)"


class SimulatedReply(Struct, frozen=True, kw_only=True):
    """
    The reply that a simulator sends.

    `cut` closes the connection half-way through the body, `hang` sends nothing, and `trickle` sends
    the body byte by byte. `thinking_seconds` is simulated time that passes before the reply.
    """

    status: int = 200
    body: bytes
    headers: Mapping[str, str] = MappingProxyType({"content-type": "application/json"})
    cut: bool = False
    hang: bool = False
    trickle: bool = False
    thinking_seconds: float = 0.0


class SimulatedRequest(Struct, frozen=True, kw_only=True):
    """
    The parts of a request that faults depend on.

    `symbol` is in the provider's spelling, and empty in a request to a model. `function` is the
    function of a request for prices. In a request to a model it is the model's name if its server
    is one of several kinds (`app.simulation.model_servers`); otherwise it is empty. `at` is the
    time of the request. `market` is set in requests for prices: some faults need the bars of
    another ticker or the splits of a ticker. `stamp` is set in requests for timestamps: it makes
    the response to this request once more, at a given time and with changes
    (`app/simulation/timestamp_authority.py`).
    """

    provider: str
    function: str = ""
    key: str
    symbol: str
    at: datetime
    market: Market | None = None
    stamp: Callable[..., bytes] | None = None


Fault = Callable[[SimulatedReply, SimulatedRequest], SimulatedReply]
# The daily series of an answer, newest session first: it maps the day of a session to the members
# of the session's bar.
Series = dict[str, dict[str, str]]
# The list of splits of an answer, newest split first.
Splits = list[dict[str, str]]
# The list of dividends of an answer, newest ex-date first.
Dividends = list[dividends.Row]
# The picks in the answer of a model.
Picks = list[dict[str, Any]]

# A time in a fault script. Without its offset from UTC, it could not be compared with the time of a
# request.
_TimeWithOffset = Annotated[datetime, msgspec.Meta(tz=True)]


def json_reply(answer: object, status: int = 200) -> SimulatedReply:
    """Return a reply with `answer` as JSON."""
    return SimulatedReply(status=status, body=msgspec.json.encode(answer))


def answer_notice(member: str, text: str) -> Fault:
    """Return a fault that answers with a notice; `{key}` in `text` becomes the request's key."""
    return lambda _, request: json_reply({member: text.format(key=request.key)})


def answer_error(status: int, message: str, code: str | None = None) -> Fault:
    """Return a fault that answers with an error in OpenAI's format."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return lambda *_: json_reply({"error": error}, status)


def change_bars(change: Callable[[Series, SimulatedRequest], Any]) -> Fault:
    """Return a fault that replaces the daily series by the result of `change`."""

    def fault(good: SimulatedReply, request: SimulatedRequest) -> SimulatedReply:
        answer = msgspec.json.decode(good.body)
        if SERIES not in answer:
            return good
        return json_reply({**answer, SERIES: change(answer[SERIES], request)})

    return fault


def change_splits(change: Callable[[Splits, SimulatedRequest], Any]) -> Fault:
    """Return a fault that replaces the list of splits by the result of `change`."""

    def fault(good: SimulatedReply, request: SimulatedRequest) -> SimulatedReply:
        answer = msgspec.json.decode(good.body)
        # Answers with dividends and with rates have a member of this name, too.
        if "data" not in answer or request.function in (DIVIDENDS, "TREASURY_YIELD"):
            return good
        return json_reply({**answer, "data": change(answer["data"], request)})

    return fault


def change_dividends(change: Callable[[Dividends, SimulatedRequest], Any]) -> Fault:
    """Return a fault that replaces the list of dividends by the result of `change`."""

    def fault(good: SimulatedReply, request: SimulatedRequest) -> SimulatedReply:
        answer = msgspec.json.decode(good.body)
        if "data" not in answer or request.function != DIVIDENDS:
            return good
        return json_reply({**answer, "data": change(answer["data"], request)})

    return fault


def change_each_dividend(**values: Any) -> Fault:
    """Return a fault that sets members of each listed dividend."""
    return change_dividends(lambda listed, _: [{**row, **values} for row in listed])


def list_dividends_wrongly(name: str) -> Fault:
    """
    Return a fault of `app.simulation.dividends.DIVIDENDS_LISTED_WRONGLY`, for each dividend.

    The row of a dividend is right from some days after its ex-date on.
    """

    def change(listed: Dividends, request: SimulatedRequest) -> Dividends:
        assert request.market
        rows: Dividends = []
        for row in listed:
            rows += dividends.list_wrongly(
                name,
                row,
                today=calendar.new_york_date(request.at),
                calendar=request.market.calendar,
            )
        return rows

    return change_dividends(change)


def change_picks(change: Callable[[Picks], object]) -> Fault:
    """Return a fault that replaces the model's answer by the result of `change`, as JSON."""

    def change_content(choice: dict[str, Any], picks: Picks) -> None:
        choice["message"]["content"] = msgspec.json.encode(change(picks)).decode()

    return change_choice(change_content)


def change_choice(change: Callable[[dict[str, Any], Picks], Any]) -> Fault:
    """Return a fault that calls `change`. It changes the first choice of the answer in place."""

    def fault(good: SimulatedReply, _: SimulatedRequest) -> SimulatedReply:
        answer = msgspec.json.decode(good.body)
        choice = answer["choices"][0]
        picks = _picks_of(choice)
        if picks is None:
            return good
        change(choice, picks)
        return json_reply(answer)

    return fault


def _picks_of(choice: dict[str, Any]) -> Picks | None:
    """
    Return the picks of an answer; None if they cannot be read.

    Some kinds of model servers answer in parts, or in a form of their own.
    """
    try:
        picks: Picks = msgspec.json.decode(choice["message"]["content"])["picks"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return None
    return picks


def change_stamp(by: timedelta = timedelta(0), **changes: Any) -> Fault:
    """Return a fault that stamps with `changes`, at a time that is wrong by `by`."""

    def fault(good: SimulatedReply, request: SimulatedRequest) -> SimulatedReply:
        assert request.stamp
        return replace(good, body=request.stamp(request.at + by, **changes))

    return fault


def change_each_split(change: Callable[[dict[str, str]], dict[str, Any]]) -> Fault:
    """Return a fault that replaces each listed split by the result of `change`."""
    return change_splits(lambda listed, _: [change(split) for split in listed])


def _change_newest_bar(values: dict[str, Any]) -> Fault:
    """Return a fault that sets members of the newest bar."""

    def change(series: Series, _: SimulatedRequest) -> dict[str, Any]:
        newest = next(iter(series), None)
        if newest is None:
            return {}
        return {**series, newest: {**series[newest], **values}}

    return change_bars(change)


def _change_first_pick(**values: str) -> Fault:
    """Return a fault that sets members of the first pick."""
    return change_picks(lambda picks: {"picks": [{**picks[0], **values}, *picks[1:]]})


def _without_late_splits(listed: Splits, request: SimulatedRequest) -> Splits:
    newest = calendar.new_york_date(request.at) - _LATE_SPLIT_DELAY
    return [split for split in listed if date.fromisoformat(split["effective_date"]) < newest]


def _each_split_twice(listed: Splits, _: SimulatedRequest) -> Splits:
    return [*listed, *({**split, "split_factor": "7.0000"} for split in listed)]


def _restate_dividends(listed: Dividends, request: SimulatedRequest) -> Dividends:
    """Divide each amount by the factors of the splits after its ex-date."""
    assert request.market
    ticker, today = request.symbol.replace("-", "."), calendar.new_york_date(request.at)
    return [request.market.restate_dividend(ticker, row, today) for row in listed]


def _list_splits_as_dividends(listed: Dividends, request: SimulatedRequest) -> Dividends:
    """Add a dividend for each split that increases the number of shares, as for a spin-off."""
    assert request.market
    ticker, today = request.symbol.replace("-", "."), calendar.new_york_date(request.at)
    spin_offs = request.market.spin_offs_as_dividends(ticker, today, every_split=True)
    rows = [*listed, *(row for _, row in spin_offs)]
    return sorted(rows, key=lambda row: row["ex_dividend_date"], reverse=True)


def _answer_premium_for_dividends(
    good: SimulatedReply, request: SimulatedRequest
) -> SimulatedReply:
    if request.function != DIVIDENDS:
        return good
    return answer_notice("Information", PREMIUM)(good, request)


def _with_bar_of_today(series: Series, request: SimulatedRequest) -> Series:
    """Return the series with a bar of a session that is not over: a copy of the newest bar."""
    today = str(calendar.new_york_date(request.at))
    return {today: next(iter(series.values())), **series}


def _sorted_by_volume(series: Series, _: SimulatedRequest) -> Series:
    return dict(sorted(series.items(), key=lambda item: item[1]["5. volume"]))


def _without_closes(series: Series, _: SimulatedRequest) -> Series:
    return {day: {"1. open": bar["1. open"]} for day, bar in series.items()}


def _key_as_closes(series: Series, request: SimulatedRequest) -> Series:
    return {day: {**bar, "4. close": request.key} for day, bar in series.items()}


def _without_newest_bars(count: int) -> Fault:
    return change_bars(lambda series, _: dict(list(series.items())[count:]))


def _answer_bad_openai_key(good: SimulatedReply, request: SimulatedRequest) -> SimulatedReply:
    message = f"Incorrect API key provided: {request.key}."
    return answer_error(401, message, "invalid_api_key")(good, request)


def _break_signature(good: SimulatedReply, _: SimulatedRequest) -> SimulatedReply:
    """Change the last bit of a timestamp, which belongs to its signature."""
    return replace(good, body=good.body[:-1] + bytes([good.body[-1] ^ 1]))


def _refuse(choice: dict[str, Any], _: Picks) -> None:
    refusal = "I can't help with that."
    choice["message"] = {"role": "assistant", "content": None, "refusal": refusal}


def _set_content(content: str | None) -> Fault:
    return change_choice(lambda choice, _: choice["message"].update(content=content))


def _add_surrogate(choice: dict[str, Any], picks: Picks) -> None:
    """Begin the first pick's reasoning with half of a surrogate pair, which is not a character."""
    text = msgspec.json.encode({"picks": picks}).decode()
    text = text.replace('"reasoning":"', '"reasoning":"\\ud800 ', 1)
    choice["message"]["content"] = text


_TEXT_HTML = {"content-type": "text/html"}

ANYWHERE: dict[str, Fault] = {
    "html": lambda good, _: replace(good, body=HTML, headers=_TEXT_HTML),
    "empty_body": lambda good, _: replace(good, body=b""),
    "truncated_body": lambda good, _: replace(good, body=good.body[: len(good.body) // 2]),
    "list": lambda good, _: replace(good, body=b"[1, 2, 3]"),
    "gzip": lambda good, _: replace(good, headers={**good.headers, "content-encoding": "gzip"}),
    "http_429": answer_error(429, "Rate limit reached.", "rate_limit_exceeded"),
    "http_500": answer_error(500, "The server had an error while processing your request."),
    "http_503": answer_error(503, "The engine is currently overloaded."),
    "redirect": lambda good, _: replace(
        good, status=302, headers={"location": "https://example.org/"}
    ),
    "cut": lambda good, _: replace(good, cut=True),
    "hang": lambda good, _: replace(good, hang=True),
    "slow": lambda good, _: replace(good, trickle=True),
}
ALPHA_VANTAGE: dict[str, Fault] = {
    **ANYWHERE,
    "unknown": answer_notice("Error Message", UNKNOWN),
    "bad_key": answer_notice("Error Message", BAD_KEY),
    "burst": answer_notice("Information", BURST),
    "quota": answer_notice("Information", QUOTA),
    "premium": answer_notice("Information", PREMIUM),
    "note": answer_notice("Note", NOTE),
    "information": answer_notice(
        "Information", "We are upgrading our systems. Your key {key} will work again soon."
    ),
    "empty": lambda *_: json_reply({}),
    "no_bars": change_bars(lambda *_: {}),
    "series_is_text": change_bars(lambda *_: "none"),
    "bars_are_text": change_bars(lambda series, _: dict.fromkeys(series, "none")),
    "bad_date": change_bars(lambda series, _: {f"{day}T00": bar for day, bar in series.items()}),
    "late_bar": _without_newest_bars(1),
    "partial_bar": change_bars(_with_bar_of_today),
    "delisted": _without_newest_bars(30),
    "out_of_order": change_bars(_sorted_by_volume),
    "no_close": change_bars(_without_closes),
    "close_is_a_number": _change_newest_bar({"4. close": 244.84}),
    "close_is_zero": _change_newest_bar({"4. close": "0.0000"}),
    "close_is_negative": _change_newest_bar({"4. close": "-244.8400"}),
    "close_is_not_a_number": _change_newest_bar({"4. close": "NaN"}),
    "close_is_scientific": _change_newest_bar({"4. close": "2.4484e2"}),
    "close_has_a_comma": _change_newest_bar({"4. close": "1,244.84"}),
    "no_splits": change_splits(lambda *_: []),
    "late_split": change_splits(_without_late_splits),
    "splits_are_text": change_splits(lambda *_: "none"),
    "split_twice": change_splits(_each_split_twice),
    "factor_is_zero": change_each_split(lambda split: {**split, "split_factor": "0.0000"}),
    "factor_is_a_number": change_each_split(lambda split: {**split, "split_factor": 2}),
    "close_is_the_key": change_bars(_key_as_closes),
    "premium_dividends": _answer_premium_for_dividends,
    "no_dividends": change_dividends(lambda *_: []),
    "dividends_are_text": change_dividends(lambda *_: "none"),
    "amount_is_zero": change_each_dividend(amount="0.0000"),
    "amount_is_a_number": change_each_dividend(amount=0.51),
    "amount_is_the_key": change_dividends(
        lambda listed, request: [{**row, "amount": request.key} for row in listed]
    ),
    **{name: list_dividends_wrongly(name) for name in dividends.DIVIDENDS_LISTED_WRONGLY},
    dividends.RESTATED: change_dividends(_restate_dividends),
    "spin_off_as_dividend": change_dividends(_list_splits_as_dividends),
}
OPENAI: dict[str, Fault] = {
    **ANYWHERE,
    "bad_key": _answer_bad_openai_key,
    "unknown_model": answer_error(404, "The model does not exist.", "model_not_found"),
    "bad_request": answer_error(400, "Unsupported value: 'temperature'.", "unsupported_value"),
    "no_credit": answer_error(429, "You exceeded your current quota.", "insufficient_quota"),
    "no_choices": lambda *_: json_reply({"error": {"message": "upstream failed", "code": 502}}),
    "truncated": change_choice(lambda choice, _: choice.update(finish_reason="length")),
    "refusal": change_choice(_refuse),
    "no_content": _set_content(None),
    "prose": _set_content("Sure! My three picks are Apple, Ford and 3M."),
    "two_picks": change_picks(lambda picks: {"picks": picks[:2]}),
    "four_picks": change_picks(lambda picks: {"picks": [*picks, picks[0]]}),
    "repeated": change_picks(lambda picks: {"picks": [picks[0], picks[0], picks[1]]}),
    "benchmark": _change_first_pick(ticker="SPY"),
    "unknown_action": _change_first_pick(action="HOLD"),
    "bad_ticker": _change_first_pick(ticker="Apple Inc."),
    "no_reasoning": _change_first_pick(reasoning="   "),
    "nul": _change_first_pick(reasoning="It will rise.\0"),
    "surrogate": change_choice(_add_surrogate),
    "extra_member": change_picks(lambda picks: {"picks": picks, "confidence": "high"}),
    "unknown_ticker": _change_first_pick(ticker="ZZZZ"),
}
TIMESTAMP: dict[str, Fault] = {
    **ANYWHERE,
    "wrong_digest": change_stamp(digest=bytes(32)),
    # The same digest, said to be one of SHA-512: a client that compares the bytes alone accepts it.
    "wrong_algorithm": change_stamp(algorithm=timestamp_authority.SHA512),
    "sha512_imprint": change_stamp(algorithm=timestamp_authority.SHA512, digest=bytes(64)),
    "wrong_nonce": change_stamp(nonce_offset=1),
    "no_nonce": change_stamp(nonce_offset=None),
    "a_day_early": change_stamp(-timedelta(days=1)),
    "a_day_late": change_stamp(timedelta(days=1)),
    "bad_signature": _break_signature,
    "expired_certificate": change_stamp(signer=timestamp_authority.EXPIRED),
    "other_root": change_stamp(signer=timestamp_authority.OTHER_ROOT),
    "wrong_purpose": change_stamp(signer=timestamp_authority.WRONG_PURPOSE),
    "no_certificates": change_stamp(has_certificates=False),
    "rejection": lambda good, _: replace(good, body=timestamp_authority.reject()),
    "rejection_with_stamp": change_stamp(status=timestamp_authority.REJECTED),
    "too_long": lambda good, _: replace(good, body=good.body.ljust(20_000, b"\0")),
    "html_as_stamp": lambda good, _: replace(good, body=HTML),
    "wrong_content_type": lambda good, _: replace(good, headers=_TEXT_HTML),
}
FAULTS = {"alphavantage": ALPHA_VANTAGE, "openai": OPENAI, "timestamp": TIMESTAMP}
# The providers that have faults at random.
RANDOM_PROVIDERS = ("alphavantage", "openai")


class FaultRule(Struct, frozen=True, forbid_unknown_fields=True):
    """One rule of a fault script: which requests get `fault`, and how many of them."""

    provider: str
    fault: str
    function: str | None = None
    symbol: str | None = None
    since: _TimeWithOffset | None = None
    until: _TimeWithOffset | None = None
    # With less than 1 the rule could never apply.
    times: Annotated[int, msgspec.Meta(ge=1)] | None = None

    def matches(self, request: SimulatedRequest) -> bool:
        """Return whether this rule applies to a request. `times` is not taken into account."""
        return (
            self.provider == request.provider
            and self.function in (None, request.function)
            and self.symbol in (None, request.symbol)
            and (self.since is None or self.since <= request.at)
            and (self.until is None or request.at < self.until)
        )


def read_script(text: bytes, known: Mapping[str, Mapping[str, Fault]]) -> list[FaultRule]:
    """
    Return the rules of a script.

    Raises ConfigurationError if the script is not a list of valid rules: a time without an offset,
    for example, is not valid, and neither is a rule whose period is empty. Raises it also for a
    provider or a fault that is not in `known`.
    """
    try:
        rules = msgspec.json.decode(text, type=list[FaultRule])
    # Bytes that are no UTF-8 raise a UnicodeError.
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ConfigurationError(f"The fault script cannot be read: {error}.") from None
    for index, rule in enumerate(rules):
        if rule.since and rule.until and rule.since >= rule.until:
            raise ConfigurationError(
                f"The fault script has a rule that never applies: its since is not before its "
                f"until - at `$[{index}]`."
            )
        if rule.provider not in known:
            raise ConfigurationError(
                f"{rule.provider!r} is not a provider. Choose one of: {', '.join(known)}."
            )
        if rule.fault not in known[rule.provider]:
            names = ", ".join(known[rule.provider])
            raise ConfigurationError(
                f"{rule.fault!r} is not a fault of {rule.provider}. Choose one of: {names}."
            )
    return rules


class FaultScript:
    """Chooses the fault of each request: by the rules, and with a `seed` also at random."""

    def __init__(self, rules: Sequence[FaultRule] = (), seed: str = "") -> None:
        self.rules = rules
        self.seed = seed
        # How often each rule has been used.
        self._used = [0] * len(rules)

    def next_fault(self, request: SimulatedRequest) -> str | None:
        """
        Return the name of the fault of a request, or None.

        The first rule that matches, and whose `times` are not used up, chooses the fault. This uses
        up one of the rule's `times`. If there is no such rule, a `seed` chooses at random.
        """
        for index, rule in enumerate(self.rules):
            is_used_up = rule.times is not None and self._used[index] >= rule.times
            if rule.matches(request) and not is_used_up:
                self._used[index] += 1
                return rule.fault
        # The services that stamp have no faults at random.
        if not self.seed or request.provider not in RANDOM_PROVIDERS:
            return None
        return self._draw_fault(request)

    def _draw_fault(self, request: SimulatedRequest) -> str | None:
        rng = Random(f"{self.seed}/{request.provider}/{request.symbol}/{request.at}")  # noqa: S311
        if request.provider == "openai":
            return rng.choice(_MODEL_FAULTS) if rng.random() < 0.25 else None
        if rng.random() < 0.04:
            return rng.choice(_PASSING_FAULTS)
        if request.function == DIVIDENDS:
            # The other faults of dividends are those of the market.
            is_premium = is_premium_week(self.seed, calendar.new_york_date(request.at))
            return "premium_dividends" if is_premium else None
        if request.function != "SPLITS":
            return self._draw_fault_of_morning(request)
        # The splits of a ticker are listed late in every answer or in none, so the seed of this
        # draw does not contain the time.
        is_late = Random(f"{self.seed}/{request.symbol}").random() < 0.3  # noqa: S311
        return "late_split" if is_late else None

    def _draw_fault_of_morning(self, request: SimulatedRequest) -> str | None:
        """
        Return the fault of a ticker's bars, or None.

        All requests for a ticker on one morning get the same result. Some newest bars arrive only
        in the afternoon, and a few only on a later day. Some answers contain a bar of the day of
        the request, whose session is not over.
        """
        day = calendar.new_york_date(request.at)
        draw = Random(f"{self.seed}/{request.symbol}/{day}").random()  # noqa: S311
        arrival = calendar.from_new_york(day, time(16, 15))
        if draw < 0.01 or (draw < 0.05 and request.at < arrival):
            return "late_bar"
        if draw > 0.9:
            return "partial_bar"
        return None


def is_premium_week(seed: str, day: date) -> bool:
    """
    Return whether all requests for dividends are refused on a day, as those of a premium function.

    They are refused for a week, from Saturday to Friday.
    """
    week = (day.toordinal() + 1) // 7
    draw = Random(f"{seed}/premium dividends/{week}").random()  # noqa: S311
    return draw < _PREMIUM_WEEK_CHANCE


# The chance that dividends are a premium function for a week.
_PREMIUM_WEEK_CHANCE = 0.1

# The faults that any request for prices, splits or dividends may get at random. `hang` is not one
# of them, because it takes real time even in a rehearsal.
_PASSING_FAULTS = (
    "burst",
    "http_500",
    "http_503",
    "html",
    "truncated_body",
    "cut",
    "information",
    "empty",
)
_MODEL_FAULTS = (
    "two_picks",
    "repeated",
    "benchmark",
    "refusal",
    "truncated",
    "prose",
    "unknown_ticker",
    "http_500",
)

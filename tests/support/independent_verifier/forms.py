"""The form of an entry: canonical JSON, the members of its kind, the columns of its rows."""

import json
import re
import uuid
from collections.abc import Callable
from datetime import date, datetime

from independent_verifier.api import MANY, SINGLE
from independent_verifier.refused import RecordRefused, require

SHORT = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def canonical(value: object) -> str:
    """Return a value in the canonical form."""
    if isinstance(value, str):
        return '"' + "".join(escaped(character) for character in value) + '"'
    if isinstance(value, list):
        return "[" + ",".join(canonical(one) for one in value) + "]"
    if isinstance(value, dict):
        members = (f"{canonical(name)}:{canonical(value[name])}" for name in sorted(value))
        return "{" + ",".join(members) + "}"
    raise RecordRefused("canonical", f"{value!r} is neither a text nor an object nor an array")


def escaped(character: str) -> str:
    """Return one character of a text in the canonical form."""
    code = ord(character)
    require(code != 0 and not 0xD800 <= code <= 0xDFFF, "canonical", f"U+{code:04X} in a text")
    if character in SHORT:
        return SHORT[character]
    if code < 0x20:
        return f"\\u{code:04x}"
    return character


def content_of(seq: int, text: str) -> dict:
    """Return the content of an entry; raise RecordRefused unless it has the canonical form."""
    try:
        content = json.loads(text)
    except ValueError:
        raise RecordRefused("canonical", f"the content of entry {seq} is no JSON") from None
    require(isinstance(content, dict), "canonical", f"the content of entry {seq} is no object")
    require(canonical(content) == text, "canonical", f"the content of entry {seq}")
    return content


# The members of each kind of entry: those that it must have, and those that it may have.
OF_KIND = {
    "GENERATION": ({"generation"}, set()),
    "BATCH": ({"batch", "picks", "checkpoint", "closes"}, set()),
    "FAILURE": ({"batch"}, set()),
    "CHECKPOINT": ({"checkpoint"}, {"metrics", "closes", "splits", "batch", "picks"}),
    "CORRECTION": (
        {"corrections", "checkpoint"},
        {
            "reason",
            "metrics",
            "picks",
            "batch",
            "further_benchmark",
            "closes",
            "splits",
            "dividends",
        },
    ),
    "PICK_ENDED": ({"pick", "ending"}, set()),
    "PICK_RENAMED": ({"pick", "before"}, {"renaming"}),
    "GENESIS": ({"genesis", "settings"}, set()),
    "SETTINGS": ({"settings"}, {"sealed"}),
    "SERIES": ({"series"}, set()),
    "READINGS": (
        {"closes", "splits"},
        {"response", "adopted", "generations", "dividends", "rates"},
    ),
    "EXTENSION": (
        set(),
        {"checkpoint", "metrics", "dividends", "further_benchmark", "closes", "splits"},
    ),
    "RULES": ({"rules"}, set()),
    "CHECK": ({"check", "rates"}, set()),
}
# A READINGS entry has the members of one of these sets beside the others.
OF_READINGS = ({"response"}, {"adopted", "generations"})


# An EXTENSION entry has the members of one of these sets.
OF_EXTENSION = (
    {"checkpoint", "metrics", "dividends"},
    {"further_benchmark", "closes", "splits"},
)


def check_members(seq: int, content: dict) -> None:
    """Check the rule `members`."""
    kind = content["kind"]
    needed, possible = OF_KIND[kind]
    there = set(content) - {"seq", "kind", "at"}
    require(needed <= there, "members", f"entry {seq} lacks {needed - there}")
    strange = there - needed - possible
    require(not strange, "members", f"entry {seq}, a {kind}, has {strange}")
    if kind == "READINGS":
        fits = there - needed - {"dividends", "rates"} in OF_READINGS
        require(fits, "members", f"entry {seq} has {there}")
    if kind == "EXTENSION":
        require(there in OF_EXTENSION, "members", f"entry {seq} has {there}")
    for name in there:
        require(has_shape(name, content[name]), "members", f"{name} of entry {seq}")
    check_once(seq, content)


def check_once(seq: int, content: dict) -> None:
    """Check that no row is twice in an entry, except readings."""
    for name in ("picks", "metrics", "corrections", "generations"):
        ids = [row.get("id") for row in content.get(name, [])]
        require(len(ids) == len(set(ids)), "members", f"entry {seq} has a row of {name} twice")


def has_shape(name: str, value: object) -> bool:
    """
    Return whether a member is a row, an array of rows, or a text, as its name requires.

    The form of a declared object is a part of the rule `row-form`.
    """
    if name in DECLARED or name in ("rules", "check"):
        return True
    if name in ("sealed", "adopted"):
        return value == "true"
    if name in ("before", "reason"):
        return isinstance(value, str)
    if name in MANY:
        return isinstance(value, list) and all(isinstance(row, dict) for row in value)
    return isinstance(value, dict)


# The forms of values.


def is_id(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def is_time(text: str) -> bool:
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text, re.ASCII):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def is_date(text: str) -> bool:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def is_natural(text: str) -> bool:
    return re.fullmatch(r"0|[1-9][0-9]*", text) is not None


def is_positive_whole(text: str) -> bool:
    return re.fullmatch(r"[1-9][0-9]*", text) is not None


def is_decimal(text: str) -> bool:
    if not re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", text):
        return False
    return not text.startswith("-") or re.search("[1-9]", text) is not None


def is_above_zero(text: str) -> bool:
    return is_decimal(text) and not text.startswith("-") and re.search("[1-9]", text) is not None


def is_zero_or_above(text: str) -> bool:
    return is_decimal(text) and not text.startswith("-")


def is_probability(text: str) -> bool:
    return re.fullmatch("[5-9][0-9]", text) is not None


def is_truth(text: str) -> bool:
    return text in ("true", "false")


def is_text(text: str) -> bool:
    return True


def is_ticker(text: str) -> bool:
    return re.fullmatch(r"[A-Z]{1,5}(\.[A-Z])?", text) is not None


def is_written(text: str) -> bool:
    return text.strip() != ""


def is_one_of(*values: str) -> Callable[[str], bool]:
    return lambda text: text in values


Form = Callable[[str], bool]
REASONS_OF_A_FAILURE = is_one_of(
    "MISSED", "NO_USABLE_ANSWER", "MISSING_CLOSE", "PROVIDER_ERROR", "CONFIGURATION"
)
REASONS_OF_A_SKIP = is_one_of("MARKET_CLOSED", "MISSING_CLOSE", "PROVIDER_ERROR")

# For each table, the columns that a row must have, and those that it may have.
NEEDED: dict[str, dict[str, Form]] = {
    "generations": {
        "id": is_id,
        "series": is_written,
        "run_date": is_date,
        "attempt": is_positive_whole,
        "asked_at": is_time,
        "requested_model": is_text,
        "prompt_version": is_text,
        "system_prompt": is_text,
        "user_prompt": is_text,
    },
    "batches": {
        "id": is_id,
        "series": is_written,
        "run_date": is_date,
        "created_at": is_time,
        "status": is_one_of("active", "completed", "failed"),
        "late": is_truth,
        "benchmark_symbol": is_ticker,
    },
    "picks": {
        "id": is_id,
        "batch_id": is_id,
        "position": is_positive_whole,
        "ticker": is_ticker,
        "action": is_one_of("BUY", "SELL"),
        "reasoning": is_written,
        "initial_price": is_above_zero,
        "initial_close_id": is_id,
        "ended": is_truth,
    },
    "checkpoints": {
        "id": is_id,
        "batch_id": is_id,
        "day": is_natural,
        "checkpoint_date": is_date,
        "status": is_one_of("computed", "skipped"),
        "taken_at": is_time,
    },
    "pick_checkpoint_metrics": {
        "id": is_id,
        "checkpoint_id": is_id,
        "pick_id": is_id,
        "current_price": is_above_zero,
        "split_factor": is_above_zero,
        "absolute_return_pct": is_decimal,
        "vs_benchmark_pct": is_decimal,
        "unusual_move": is_truth,
        "ended": is_truth,
    },
    "further_benchmarks": {
        "id": is_id,
        "batch_id": is_id,
        "symbol": is_ticker,
        "position": is_positive_whole,
        "trading_day": is_date,
        "further_initial_price": is_above_zero,
        "further_initial_close_id": is_id,
        "further_price": is_above_zero,
        "further_close_id": is_id,
        "further_split_factor": is_above_zero,
        "further_return_pct": is_decimal,
        "measured_at": is_time,
    },
    "corrections": {
        "id": is_id,
        "checkpoint_id": is_id,
        "field": is_text,
        "reason": is_written,
        "made_at": is_time,
    },
    "closes": {
        "id": is_id,
        "ticker": is_ticker,
        "trading_day": is_date,
        "close": is_above_zero,
        "source": is_written,
        "read_at": is_time,
    },
    "splits": {
        "ticker": is_ticker,
        "effective_date": is_date,
        "factor": is_above_zero,
        "source": is_written,
        "read_at": is_time,
    },
    "dividends": {
        "ticker": is_ticker,
        "ex_date": is_date,
        "amount": is_zero_or_above,
        "source": is_written,
        "read_at": is_time,
    },
    "rates": {
        "observed_on": is_date,
        "value_pct": is_decimal,
        "source": is_written,
        "read_at": is_time,
    },
    "ending": {
        "pick_id": is_id,
        "last_session": is_date,
        "value": is_above_zero,
        "source": is_written,
    },
    "renaming": {
        "pick_id": is_id,
        "from_session": is_date,
        "source": is_written,
        "forced": is_truth,
    },
    "genesis": {
        "record_id": is_text,
        "origin": is_one_of("LIVE", "REHEARSED", "UNKNOWN"),
        "late": is_truth,
    },
    "settings": {
        "version": is_text,
        "benchmark": is_text,
        "price_source": is_text,
        "calendar_from": is_date,
        "calendar_to": is_date,
        "days_without_session": is_date,
        "closed_days": is_date,
        "timestamp_roots": is_text,
    },
    "series": {
        "name": is_text,
        "label": is_text,
        "kind": is_one_of("model", "random"),
        "holds_from": is_date,
        "profile": is_text,
        "profile_sha256": is_text,
    },
    "profile": {
        "base_url": is_text,
        "model": is_text,
        "response_format": is_text,
        "timeout_seconds": is_text,
        "prompt_version": is_text,
        "system_prompt_sha256": is_text,
        "user_prompt_sha256": is_text,
        "schema": is_text,
    },
    "control": {"draw_version": is_text, "universe": is_text, "universe_source": is_text},
    "response": {
        "source": is_written,
        "kind": is_one_of("CLOSES", "SPLITS", "DIVIDENDS", "RATES"),
        "read_at": is_time,
        "sha256": is_text,
    },
}
DECLARED = ("genesis", "settings", "series", "response")
# The columns that are arrays: the form is that of each value.
ARRAYS = {
    ("settings", "days_without_session"),
    ("settings", "closed_days"),
    ("settings", "timestamp_roots"),
    ("settings", "further_benchmarks"),
    ("control", "universe"),
    ("response", "ex_dates"),
}
POSSIBLE: dict[str, dict[str, Form]] = {
    "generations": {
        "answered_at": is_time,
        "answered_model": is_text,
        "answer": is_text,
        "request_id": is_text,
        "prompt_tokens": is_natural,
        "completion_tokens": is_natural,
        "finish_reason": is_text,
        "reasoning_effort": is_text,
        "reasoning_tokens": is_natural,
        "system_fingerprint": is_text,
        "accepted": is_truth,
        "refusal": is_text,
        "profile_sha256": is_text,
    },
    "batches": {
        "failure_reason": REASONS_OF_A_FAILURE,
        "failure": is_text,
        "benchmark_initial_price": is_above_zero,
        "benchmark_initial_close_id": is_id,
        "trading_day": is_date,
    },
    "picks": {
        "probability": is_probability,
        "entry_open": is_above_zero,
        "entry_close_id": is_id,
    },
    "checkpoints": {
        "trading_day": is_date,
        "skip_reason": REASONS_OF_A_SKIP,
        "note": is_text,
        "skipped_at": is_time,
        "benchmark_price": is_above_zero,
        "benchmark_close_id": is_id,
        "benchmark_split_factor": is_above_zero,
        "benchmark_return_pct": is_decimal,
        "benchmark_unusual_move": is_truth,
        "benchmark_dividends": is_zero_or_above,
        "benchmark_total_return_pct": is_decimal,
        "benchmark_spin_off_counted_once": is_truth,
    },
    "pick_checkpoint_metrics": {
        "close_id": is_id,
        "return_from_open_pct": is_decimal,
        "dividends": is_zero_or_above,
        "total_return_pct": is_decimal,
        "vs_benchmark_total_pct": is_decimal,
        "spin_off_counted_once": is_truth,
    },
    "corrections": {"ticker": is_ticker, "before": is_text, "after": is_text},
    "closes": {"open": is_above_zero},
    "splits": {},
    "dividends": {},
    "rates": {},
    "further_benchmarks": {},
    "ending": {},
    "renaming": {},
    "genesis": {},
    "settings": {"further_benchmarks": is_text},
    "series": {"retired": is_truth},
    "profile": {
        "temperature": is_text,
        "reasoning_effort": is_text,
        "max_tokens": is_text,
        "token_limit_as": is_text,
        "extra_body": is_text,
        "tools": is_truth,
    },
    "control": {},
    "response": {
        "ticker": is_ticker,
        "first_session": is_date,
        "last_session": is_date,
        "ex_dates": is_date,
    },
}


def check_rows(seq: int, content: dict) -> None:
    """Check the rule `row-form` for an entry: its rows, its time and its declared objects."""
    fits = is_time(content["at"])
    require(fits, "row-form", f"at of entry {seq} is {content['at']!r}")
    for name, member in content.items():
        if name in SINGLE:
            check_row(f"{name} of entry {seq}", SINGLE[name], member)
        if name in ("ending", "renaming", *DECLARED):
            check_row(f"{name} of entry {seq}", name, member)
        if name in MANY:
            for number, row in enumerate(member, 1):
                check_row(f"row {number} of {name} of entry {seq}", MANY[name], row)


def check_row(where: str, table: str, row: object) -> None:
    """Check that a row has the columns of its table, each in its form."""
    require(isinstance(row, dict), "row-form", f"{where} is no object")
    needed, possible = NEEDED[table], POSSIBLE[table]
    missing = set(needed) - set(row)
    require(not missing, "row-form", f"{where} lacks {missing}")
    strange = set(row) - set(needed) - set(possible)
    require(not strange, "row-form", f"{where} has {strange}")
    for column, value in row.items():
        if column == "profile":
            shape = "control" if row.get("kind") == "random" else "profile"
            check_row(f"{column} of {where}", shape, value)
            continue
        form = needed.get(column) or possible[column]
        if (table, column) in ARRAYS:
            fits = isinstance(value, list) and all(has_form(form, one) for one in value)
        else:
            fits = has_form(form, value)
        require(fits, "row-form", f"{column} of {where} is {value!r}")


def has_form(form: Form, value: object) -> bool:
    """Return whether a value is a text of a form."""
    return isinstance(value, str) and form(value)

"""
The words that pages and the feed show about the timestamp of a batch.

A batch and a timestamp are mappings, as the API returns them.
"""

from datetime import datetime
from typing import Any

from msgspec import Struct

from app.domain.calendar import NEW_YORK, new_york_date
from app.domain.timestamps import TimestampKind, TimestampStatus
from app.web.formatting import new_york_time
from app.web.routes import TIMESTAMP_FILE

Node = dict[str, Any]


class StampText(Struct, frozen=True):
    """
    What a page says about the timestamp of a batch, with the path of the proof.

    `words` begin with a small letter, and have no full stop at the end. `path` is None if there is
    no proof.
    """

    words: str
    path: str | None = None


def describe_stamp(batch: Node, *, is_expected: bool) -> StampText | None:
    """
    Return what to say about the timestamp of a batch, or None if there is nothing to say.

    A failed Monday has no picks that could be stamped. If no timestamp covers the batch, something
    is said only if one was to be expected (`is_expected`): the record has timestamps, or an
    authority is set (TIMESTAMP_URLS).
    """
    stamp = batch["timestamp"]
    if batch["status"] == "FAILED" or (stamp is None and not is_expected):
        return None
    is_before = batch["stampedBeforeOpen"]
    if stamp is None:
        if is_before is None:
            return StampText("not stamped yet")
        return StampText("not stamped before the open")

    if stamp["kind"] == TimestampKind.RFC3161:
        path = TIMESTAMP_FILE.url(name=f"{stamp['seq']}.tsr")
        when = _describe_time(stamp["at"], batch["runDate"])
        return StampText(f"stamped {when}, {_before_or_after(is_before)} the open", path)

    path = TIMESTAMP_FILE.url(name=f"{stamp['seq']}.ots")
    words = "promised by OpenTimestamps"
    if stamp["status"] == TimestampStatus.CONFIRMED:
        words = f"in Bitcoin’s block {stamp['blockHeight']}"
    # Such a proof says the day, and never the minute.
    if is_before is None:
        return StampText(f"{words}; no timestamp with the minute yet", path)
    return StampText(f"{words}; no timestamp from before the open", path)


def _describe_time(at: str, run_date: str) -> str:
    """Return a time in New York, with its date if that is not the Monday of the batch."""
    moment = datetime.fromisoformat(at)
    if str(new_york_date(moment)) == run_date:
        return f"{moment.astimezone(NEW_YORK):%H:%M} New York"
    return f"{new_york_time(moment)} New York"


def _before_or_after(is_before: bool | None) -> str:
    return "before" if is_before else "after"

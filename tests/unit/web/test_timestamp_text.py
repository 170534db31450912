"""What a page says about the timestamp of a batch."""

import pytest

from app.web.pages.timestamp_text import StampText, describe_stamp

TOKEN = {
    "seq": "812", "kind": "RFC3161", "at": "2026-11-23T14:04:10.000000Z", "status": "CONFIRMED",
    "blockHeight": None,
}  # fmt: skip
PROOF = {**TOKEN, "kind": "OPENTIMESTAMPS", "status": "PENDING"}


@pytest.mark.parametrize(
    ("stamp", "is_before", "expected"),
    [
        (
            TOKEN,
            True,
            StampText("stamped 09:04 New York, before the open", "/timestamps/812.tsr"),
        ),
        (
            {**TOKEN, "at": "2026-11-23T15:00:00.000000Z"},
            False,
            StampText("stamped 10:00 New York, after the open", "/timestamps/812.tsr"),
        ),
        (
            {**TOKEN, "at": "2026-11-24T14:10:00.000000Z"},
            False,
            StampText(
                "stamped Tue 24 Nov 2026, 09:10 New York, after the open", "/timestamps/812.tsr"
            ),
        ),
        (
            PROOF,
            None,
            StampText(
                "promised by OpenTimestamps; no timestamp with the minute yet",
                "/timestamps/812.ots",
            ),
        ),
        (
            {**PROOF, "status": "CONFIRMED", "blockHeight": 930_000},
            False,
            StampText(
                "in Bitcoin’s block 930000; no timestamp from before the open",
                "/timestamps/812.ots",
            ),
        ),
        (None, None, StampText("not stamped yet")),
        (None, False, StampText("not stamped before the open")),
    ],
)
def test_the_words(stamp, is_before, expected):
    """The time is New York's, with its date if it is not the Monday, and the proof is linked."""
    batch = {
        "status": "ACTIVE", "runDate": "2026-11-23", "timestamp": stamp,
        "stampedBeforeOpen": is_before,
    }  # fmt: skip
    assert describe_stamp(batch, is_expected=True) == expected
    assert describe_stamp(batch, is_expected=False) == (expected if stamp else None)
    assert describe_stamp({**batch, "status": "FAILED"}, is_expected=True) is None

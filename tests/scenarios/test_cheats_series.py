"""
The cheats of an owner of several series, each as a story, as in `test_cheats`.

The owner is the superuser of the database. Each story says what `alpha-monday verify` finds in the
database and at the served address, which rule the independent verifier names, and what a reader
finds who has kept a copy of the head. docs/trust.md quotes these words.
"""

import asyncio
import json
from datetime import date
from pathlib import Path

import pytest
import shown
from clocks import HandSetClock
from independent_verifier.refused import RecordRefused
from independent_verifier.verifier import verify as verify_from_outside
from job_context import new_york
from msgspec import Struct
from record_server import as_recorded, copy_of, record_server, silent, without_triggers
from several_series import several_series
from tampering import Change, Content, forge

from app.domain.model import batch_id
from app.domain.verification.chain import Head
from app.domain.verification.entries import entry_batch_id
from app.errors import Discrepancy
from app.ops.verify import RecordSource, open_api, open_database, verify
from tests.integration.domain import test_rules_checks as checks
from tests.integration.domain import test_rules_series as series
from tests.integration.domain.test_rules_rows import head_of
from tests.integration.domain.test_rules_series import FIRST, LAST, NEXT
from tests.integration.jobs.test_timestamps import opened
from tests.scenarios.test_cheats import CUT_OFF, FITS, REWRITTEN

__all__ = ["as_recorded", "several_series"]

TRUST = (Path(__file__).parents[2] / "docs" / "trust.md").read_text()
MONDAYS = (FIRST, NEXT, LAST)

ADDED_LATER = "No entry of the journal mentions a batch of third of Monday 2026-10-26"
NO_DECLARATION = "no SERIES entry declares its series, second. (rule: profile)"
NO_BATCHES = "No entry of the journal mentions a batch of second of Monday 2026-11-02"
RETIRED_AFTERWARDS = "holds_from is 2026-11-02, before the week of its entry, 2026-11-09"
OTHER_DRAWS = ", but the draws of that Monday give "
TOO_SOON = "a new profile of a control is declared 28 days before it holds"
NO_PROVIDER = "its answer follows the rules, but was refused: The model refused: "
WAS_READ = "it states that a close was missing, but the record had the closes of 2026-10-23 of "
ANOTHER_MODEL = "requested_model is cheap-model, but its profile has another-model. (rule: profile)"
WITHHELD = "No entry of the journal holds check 1, of 2027-10-04, in time"
NOT_WHAT_IT_GIVES = "findings of its check is not what the entries before it give. (rule: check)"
SERIES_OF_CHECK = "series of its check is not what the entries before it give. (rule: check)"
OTHER_RULES = "its rules are not version 1 with the SHA-256"
RULES_TWICE = "the journal already has these rules. (rule: rules)"

# What the page of the control's batch says of a ticker that is said to have no price.
DREW_AGAIN = "Alpha Vantage does not know"
# What the table of all series says of one that is asked no more.
RETIRED = "Second retired"


class Cheat(Struct, frozen=True, kw_only=True):
    """
    A cheat with several series, and what shows it.

    `commit` changes the contents of the journal; the rows and hashes are written so that they fit.
    `verify` is what `alpha-monday verify` says, and `rule` the rule that the independent verifier
    names; None if the record fits. `head` is what the command says with the head that a reader has
    kept.
    """

    commit: Change
    verify: str = FITS
    rule: str | None = None
    head: str = REWRITTEN
    is_quick: bool = False


# --- Cheats with the series -------------------------------------------------


def dropped(name: str) -> Change:
    """Remove everything of a series but the prices that were read for it."""

    def change(contents: list[Content]) -> list[Content]:
        batches = {str(batch_id(name, date.fromisoformat(monday))) for monday in MONDAYS}
        gone = series.declarations_of(contents, name)
        for one in contents:
            question = one.get("generation", {})
            if question.get("series") == name or entry_batch_id(one) in batches:
                gone.append(one)
        return [one for one in contents if one not in gone]

    return change


def renamed(old: str, new: str) -> Change:
    """Write another name for a series everywhere, with the ids that follow from it."""

    def change(contents: list[Content]) -> list[Content]:
        text = json.dumps(contents)
        for monday in map(date.fromisoformat, MONDAYS):
            text = text.replace(str(batch_id(old, monday)), str(batch_id(new, monday)))
        written = json.loads(text)
        for one in written:
            for member in ("generation", "batch"):
                if one.get(member, {}).get("series") == old:
                    one[member]["series"] = new
        for declaration in series.declarations_of(written, old):
            declaration["series"].update(name=new, label=new)
        return written

    return change


CHEATS = {
    "nothing": Cheat(commit=lambda contents: contents, head=FITS),
    "a series is added later, as if it had been there": Cheat(
        commit=series.declared("third", holds_from=FIRST), verify=ADDED_LATER, rule="every-monday"
    ),
    "the declaration of a series is deleted": Cheat(
        commit=series.without_declarations("second"), verify=NO_DECLARATION, rule="profile"
    ),
    "the batches of a series are deleted": Cheat(
        commit=series.without_series("second", NEXT), verify=NO_BATCHES, rule="every-monday"
    ),
    "a series is dropped completely": Cheat(commit=dropped("second"), head=CUT_OFF, is_quick=True),
    "a series is renamed": Cheat(commit=renamed("second", "trial")),
    "a series that was declared before the control is renamed": Cheat(
        commit=renamed("main", "trial"), verify=OTHER_DRAWS, rule="draws", is_quick=True
    ),
    "a series is retired after its answer": Cheat(
        commit=series.retired_after_its_answer, verify=NO_BATCHES, rule="every-monday"
    ),
    "a series is retired afterwards": Cheat(
        commit=series.declared("second", 1, holds_from=NEXT),
        verify=RETIRED_AFTERWARDS,
        rule="series",
    ),
    "another model is asked": Cheat(
        commit=series.question("second", NEXT, requested_model="cheap-model"),
        verify=ANOTHER_MODEL,
        rule="profile",
    ),
    "the control draws something else": Cheat(
        commit=series.other_draws(FIRST, series.turned), verify=OTHER_DRAWS, rule="draws"
    ),
    "the control gets another list at once": Cheat(
        commit=series.inserted("dice", LAST, holds_from=LAST, **series.small()),
        verify=TOO_SOON,
        rule="series",
    ),
    "a drawn ticker is refused in the words of a provider": Cheat(
        commit=series.refused_at_once(None, "The model refused: {}"),
        verify=NO_PROVIDER,
        rule="answer-refused",
    ),
    "a drawn ticker is said to have no price": Cheat(
        commit=series.with_a_price(), verify=WAS_READ, rule="answer-refused"
    ),
}

# --- Cheats with the yearly check -------------------------------------------

# A check is appended to the record, so its head is kept before it and fits.
CHECKS = {
    "the check is withheld": Cheat(commit=checks.left_out, verify=WITHHELD, rule="every-check"),
    "the check finds something": Cheat(
        commit=checks.checked(checks.found), verify=NOT_WHAT_IT_GIVES, rule="check", is_quick=True
    ),
    "the check is written twice": Cheat(
        commit=lambda contents: [*checks.held(contents), checks.held(contents)[-1]],
        verify=" is held before ",
        rule="check",
    ),
    "a series stops until the check, and is tested": Cheat(
        commit=checks.hidden_retirement, verify=SERIES_OF_CHECK, rule="check"
    ),
    "other rules are journaled": Cheat(
        commit=checks.rules(sha256="0" * 64), verify=OTHER_RULES, rule="rules"
    ),
    "the rules are journaled again": Cheat(
        commit=checks.rules_twice, verify=RULES_TWICE, rule="rules"
    ),
}


def cases(cheats: dict[str, Cheat]) -> list:
    """Return the names of cheats; those that are not quick are long."""
    return [
        pytest.param(name, marks=[] if one.is_quick else [pytest.mark.long])
        for name, one in cheats.items()
    ]


async def finding(source: RecordSource, *heads: Head) -> str:
    """Return what the verification of a source says."""
    try:
        await verify(source, heads=heads, report_progress=silent)
    except Discrepancy as error:
        return str(error)
    return FITS


async def rule_from_outside(url: str) -> str | None:
    """Return the rule that the independent verifier names; None if the record fits."""
    try:
        await asyncio.to_thread(verify_from_outside, url)
    except RecordRefused as error:
        return error.rule
    return None


async def check_cheat(address: str, cheat: Cheat, head: Head | None) -> None:
    """Commit a cheat, and check what everyone finds."""
    forge(address, cheat.commit)
    async with open_database(address) as source:
        assert cheat.verify in await finding(source)
    async with record_server(address) as url:
        async with open_api(url, asyncio.sleep) as source:
            assert cheat.verify in await finding(source)
            if head is not None and cheat.rule is None:
                assert cheat.head in await finding(source, head)
        assert await rule_from_outside(url) == cheat.rule


@pytest.mark.parametrize("name", cases(CHEATS))
async def test_a_cheat_with_series(name, several_series, create):
    address = copy_of(several_series, create)
    await check_cheat(address, CHEATS[name], head_of(address))


@pytest.mark.parametrize("name", cases(CHECKS))
async def test_a_cheat_with_the_yearly_check(name, as_recorded, create):
    await check_cheat(copy_of(as_recorded, create), CHECKS[name], None)


@pytest.mark.parametrize("deletes_stamps", [False, pytest.param(True, marks=pytest.mark.long)])
async def test_a_series_is_dropped_from_a_stamped_record(
    several_series, create, commanded, deletes_stamps
):
    """
    A timestamp that stays contradicts the new chain. Without it, only a kept copy of the head
    shows that there was another series.
    """
    address = copy_of(several_series, create)
    async with opened(address, HandSetClock(new_york(date.fromisoformat(LAST), 10))) as stamps:
        await stamps.stamp()
    seq, hash = head_of(address)
    forge(address, dropped("second"))
    if deletes_stamps:
        with without_triggers(address) as conn:
            conn.execute("DELETE FROM timestamps")
    for look in (shown.verify, shown.verify_served):
        words = shown.words_of(await look(commanded, address))
        assert ("(rule: timestamp)" in words) == (not deletes_stamps)
        assert (FITS in words) == deletes_stamps
        words = shown.words_of(await look(commanded, address, "--head", f"{seq}:{hash}"))
        assert CUT_OFF in words


async def test_what_the_pages_say(several_series, create):
    """
    A false word that a drawn ticker has no price fits the record, and is shown. A series that was
    retired stays in the table of all series.
    """
    address = copy_of(several_series, create)
    page = await shown.page(address, f"/series/dice/batches/{FIRST}")
    assert DREW_AGAIN in page
    page = await shown.page(address, "/record")
    assert RETIRED in page


QUOTED = (
    ADDED_LATER,
    NO_DECLARATION,
    NO_BATCHES,
    RETIRED_AFTERWARDS,
    OTHER_DRAWS,
    TOO_SOON,
    NO_PROVIDER,
    WAS_READ,
    ANOTHER_MODEL,
    WITHHELD,
    NOT_WHAT_IT_GIVES,
    OTHER_RULES,
    RULES_TWICE,
)


@pytest.mark.parametrize("words", QUOTED)
def test_the_page_quotes_what_is_shown(words):
    assert words.strip() in " ".join(TRUST.split())

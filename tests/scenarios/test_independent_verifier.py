"""
The independent verifier, written from the documents alone (tests/support/independent_verifier), and
the documents' texts.
"""

import asyncio
import hashlib
import json
import re
from pathlib import Path

import pytest
from commands import run, served
from eventful import eventful, eventful_as_recorded
from graphql import parse, validate
from independent_verifier.api import CLOSES, DIVIDENDS, ENTRIES, RATES, ROWS, SPLITS
from independent_verifier.refused import RecordRefused
from independent_verifier.verifier import VerificationSummary
from independent_verifier.verifier import verify as verify_from_outside
from record_server import CHANGES, as_recorded, changed, copy_of, record_server, rehearsed, silent
from sealing import sealed_late
from several_series import several_series
from tampering import forge, one_of_each_rule

from api.schema import schema
from app.domain.verification.discrepancies import Rule
from app.domain.verification.entries import MEMBERS, TABLES
from app.ops.verify import open_database, verify
from tests.integration.domain import (
    test_rules_changes,
    test_rules_checkpoints,
    test_rules_checks,
    test_rules_eventful,
    test_rules_further,
    test_rules_marks,
    test_rules_mondays,
    test_rules_rows,
    test_rules_sealed,
    test_rules_series,
    test_rules_totals,
)
from tests.integration.domain.test_rules_further import fortnight
from tests.integration.domain.test_rules_marks import record_with_moves

DOCS = (Path(__file__).parents[2] / "docs" / "journal.md").read_text()

__all__ = [
    "as_recorded",
    "eventful",
    "eventful_as_recorded",
    "fortnight",
    "record_with_moves",
    "rehearsed",
    "several_series",
]

OF_CALM_WEEKS = [
    *test_rules_changes.FORGERIES,
    *test_rules_mondays.FORGERIES,
    *test_rules_checkpoints.FORGERIES,
    *test_rules_rows.FORGERIES,
]
OF_MOVES = test_rules_marks.FORGERIES
OF_EVENTS = [
    pytest.param(rule, change, id=f"{rule}: {name}")
    for name, (rule, change) in test_rules_eventful.FORGERIES.items()
]
OF_SEALED_WEEKS = [
    *test_rules_sealed.FORGERIES,
    *test_rules_checks.FORGERIES,
    *test_rules_totals.FORGERIES,
]
BY_SQL = test_rules_rows.FORGERIES_BY_SQL

# Forgeries that break two rules at once, and which one the independent verifier names, because of
# the order of its checks.
ALSO_BROKEN: dict[str, str] = {}


async def outside(database: str, head: tuple[int, str] | None = None) -> VerificationSummary:
    """Return the independent verifier's summary of a served record."""
    async with record_server(database) as url:
        return await asyncio.to_thread(verify_from_outside, url, head)


async def refused(database: str, head: tuple[int, str] | None = None) -> str:
    """Return the rule by which the independent verifier refuses a record."""
    with pytest.raises(RecordRefused) as error:
        await outside(database, head)
    return error.value.rule


def rule_of(request: pytest.FixtureRequest, rule: str) -> str:
    """Return the rule that the independent verifier names for a forgery."""
    return ALSO_BROKEN.get(request.node.callspec.id, rule)


async def test_the_independent_verifier_agrees(rehearsed, create):
    """A record of four weeks is right by the independent verifier and by the command."""
    copy = copy_of(rehearsed, create)
    async with open_database(copy) as source:
        ours = await verify(source, [], silent)
    assert (await outside(copy, (ours.seq, ours.hash))).entries == ours.seq


async def test_the_independent_verifier_agrees_about_a_sealed_record(as_recorded, create):
    """The same four weeks as they were recorded: sealed from the first entry on."""
    copy = copy_of(as_recorded, create)
    async with open_database(copy) as source:
        ours = await verify(source, [], silent)
    summary = await outside(copy, (ours.seq, ours.hash))
    assert (summary.entries, summary.links) == (ours.seq, 0)
    # Two results, each with a benchmark and three picks.
    assert summary.totals == 2 * 4


async def test_the_independent_verifier_agrees_about_several_series(several_series, create):
    """A record whose series join and retire, with a control, is right by both."""
    copy = copy_of(several_series, create)
    async with open_database(copy) as source:
        ours = await verify(source, [], silent)
    summary = await outside(copy, (ours.seq, ours.hash))
    assert (summary.entries, summary.links) == (ours.seq, 0)


@pytest.mark.parametrize(("rule", "change"), one_of_each_rule(test_rules_series.FORGERIES))
async def test_the_independent_verifier_names_the_rule_of_several_series(
    several_series, create, request, rule, change
):
    copy = copy_of(several_series, create)
    forge(copy, change)
    assert await refused(copy) == rule_of(request, rule)


async def test_the_independent_verifier_agrees_about_further_benchmarks(fortnight, create):
    """A fortnight with two benchmarks, whose split was listed late: a row and its correction."""
    copy = copy_of(fortnight, create)
    async with open_database(copy) as source:
        ours = await verify(source, [], silent)
    summary = await outside(copy, (ours.seq, ours.hash))
    assert (summary.entries, summary.further) == (ours.seq, 2)


@pytest.mark.long
@pytest.mark.parametrize(("rule", "change"), test_rules_further.FORGERIES)
async def test_the_independent_verifier_names_the_rule_of_further_benchmarks(
    fortnight, create, request, rule, change
):
    copy = copy_of(fortnight, create)
    forge(copy, change)
    assert await refused(copy) == rule_of(request, rule)


@pytest.mark.long
@pytest.mark.parametrize(
    "change",
    [
        *test_rules_sealed.FITTING,
        *test_rules_totals.FITTING,
        pytest.param(test_rules_totals.HELD_ONCE, id="a dividend of the benchmark is held once"),
    ],
)
async def test_the_independent_verifier_accepts_a_sealed_record_that_fits(
    as_recorded, create, change
):
    """
    It accepts what a sealed record allows: a late seal, and dividends that are paid or withdrawn.
    """
    copy = copy_of(as_recorded, create)
    forge(copy, change)
    assert (await outside(copy)).rows > 200


async def test_the_independent_verifier_agrees_about_moves(record_with_moves):
    """A record of two weeks with falls, splits, a skipped day and an ended pick is right, too."""
    assert (await outside(record_with_moves)).entries == 19


@pytest.mark.parametrize(
    "statements", [pytest.param(case.values[0], id=case.id) for case in CHANGES]
)
async def test_the_independent_verifier_finds_what_was_changed(rehearsed, create, statements):
    """The independent verifier refuses each change that `verify` names."""
    copy = copy_of(rehearsed, create)
    changed(copy, statements)
    assert await refused(copy) in ("row", "chain")


async def test_the_independent_verifier_finds_a_tail_cut_off(rehearsed, create):
    """With a copy of the head it notices that the last entries are gone."""
    copy = copy_of(rehearsed, create)
    head = test_rules_rows.head_of(copy)
    changed(copy, "DELETE FROM journal WHERE seq = (SELECT max(seq) FROM journal)")
    assert await refused(copy, head) == "head"


@pytest.mark.long
@pytest.mark.parametrize(("rule", "change"), OF_CALM_WEEKS)
async def test_the_independent_verifier_names_the_rule(rehearsed, create, request, rule, change):
    """The rows fit the chain: only the document's rules show the forgery."""
    copy = copy_of(rehearsed, create)
    forge(copy, change)
    assert await refused(copy) == rule_of(request, rule)


@pytest.mark.long
@pytest.mark.parametrize(("rule", "change"), OF_MOVES)
async def test_the_independent_verifier_names_the_rule_of_moves(
    record_with_moves, create, request, rule, change
):
    """The verifier names the rule that a record with moves and splits breaks, too."""
    copy = copy_of(record_with_moves, create)
    forge(copy, change)
    assert await refused(copy) == rule_of(request, rule)


async def test_the_independent_verifier_agrees_about_all_events(eventful):
    """A record with every kind of event is right."""
    assert (await outside(eventful)).rows > 700


async def test_the_independent_verifier_agrees_about_all_sealed_events(eventful_as_recorded):
    """The same record, sealed from its first entry on, is right."""
    assert (await outside(eventful_as_recorded)).rows > 700


@pytest.mark.parametrize(
    "part",
    [pytest.param(part, marks=[] if part == 5 else [pytest.mark.long]) for part in range(1, 10)],
)
async def test_the_independent_verifier_agrees_about_a_late_seal(
    eventful_as_recorded, create, part
):
    """The record is right whenever it was sealed."""
    copy = copy_of(eventful_as_recorded, create)
    forge(copy, lambda contents: sealed_late(contents, len(contents) * part // 10))
    assert (await outside(copy)).rows > 700


@pytest.mark.parametrize(("rule", "change"), one_of_each_rule(OF_SEALED_WEEKS))
async def test_the_independent_verifier_names_the_rule_of_a_sealed_record(
    as_recorded, create, request, rule, change
):
    """It names the rule that a forgery of a sealed record breaks."""
    copy = copy_of(as_recorded, create)
    forge(copy, change)
    assert await refused(copy) == rule_of(request, rule)


async def test_the_independent_verifier_accepts_a_check(eventful_as_recorded, create):
    """It computes a check of all events again, from the documentation alone."""
    copy = copy_of(eventful_as_recorded, create)
    forge(copy, test_rules_checks.with_rules_and_check)
    assert (await outside(copy)).links == 0


async def test_the_independent_verifier_names_a_total_return_of_a_correction(as_recorded, create):
    """Only an EXTENSION adds a total return."""
    copy = copy_of(as_recorded, create)
    forge(copy, test_rules_totals.correction_that_adds)
    assert await refused(copy) == "total-return"


@pytest.mark.parametrize(("statements", "rule"), test_rules_sealed.WITHOUT_THE_JOURNAL)
async def test_the_independent_verifier_names_a_row_without_the_journal(
    as_recorded, create, statements, rule
):
    """Every row of a sealed record is mentioned, open questions and unused readings too."""
    copy = copy_of(as_recorded, create)
    changed(copy, statements)
    assert await refused(copy) == rule


@pytest.mark.long
@pytest.mark.parametrize(("rule", "change"), OF_EVENTS)
async def test_the_independent_verifier_names_the_rule_of_events(
    eventful, create, request, rule, change
):
    """It names the rule that a forgery of the record with every kind of event breaks."""
    copy = copy_of(eventful, create)
    forge(copy, change)
    assert await refused(copy) == rule_of(request, rule)


@pytest.mark.parametrize(("rule", "change"), one_of_each_rule(BY_SQL))
async def test_the_independent_verifier_names_the_rule_of_a_single_change(
    rehearsed, create, request, rule, change
):
    """It names the rule that a change of a single entry or row breaks."""
    copy = copy_of(rehearsed, create)
    head = test_rules_rows.head_of(copy) if rule == "head" else None
    change(copy)
    assert await refused(copy, head) == rule_of(request, rule)


@pytest.mark.long
@pytest.mark.parametrize(
    "row", [pytest.param(*case.values, id=case.id) for case in test_rules_marks.UNCOUNTED]
)
async def test_the_independent_verifier_counts_splits(record_with_moves, create, row):
    """
    The verifier refuses a record with a split that no entry mentions and that figures should count.
    """
    copy = copy_of(record_with_moves, create)
    test_rules_marks.insert(copy, *row)
    assert await refused(copy) == "split-counted"


@pytest.mark.long
@pytest.mark.parametrize(
    "row", [pytest.param(*case.values, id=case.id) for case in test_rules_marks.NOT_TO_BE_COUNTED]
)
async def test_the_independent_verifier_leaves_other_splits(record_with_moves, create, row):
    """The verifier accepts a split that no figure is to count."""
    copy = copy_of(record_with_moves, create)
    test_rules_marks.insert(copy, *row)
    assert (await outside(copy)).entries == 19


def test_each_rule_has_its_forgery():
    """
    The document names the rules that there are, in their order, and each of them is broken by a
    test.

    The rule of timestamps is not about the chain: it has a section, and tests, of its own.
    """
    section = DOCS.split("\n## The rules\n")[1].split("\n### The values of a row\n")[0]
    named = re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE)
    assert named == [str(rule) for rule in Rule if rule is not Rule.TIMESTAMP]
    assert f"a discrepancy of the rule `{Rule.TIMESTAMP}`" in DOCS
    others = [*test_rules_series.FORGERIES, *test_rules_further.FORGERIES, *BY_SQL]
    forgeries = [*OF_CALM_WEEKS, *OF_MOVES, *OF_EVENTS, *OF_SEALED_WEEKS, *others]
    assert {forgery.values[0] for forgery in forgeries} == set(named)


@pytest.mark.long
def test_a_year(tmp_path, create):
    """
    Fifty-two weeks with faulty providers: the command and the verifier agree on the served record.
    """
    address = create()
    arguments = ("rehearse", "--single", "--weeks", 52, "--until", "2026-10-30")
    with served(*arguments, cwd=tmp_path, DATABASE_URL=address) as url:
        summary = verify_from_outside(url)
        done = run("verify", "--from", url, cwd=tmp_path, timeout=600)
        assert done.returncode == 0, done.stderr
        assert "\nSealed since entry 1 (record " in done.stdout
        assert f"Everything fits: {summary.entries:,} entries, " in done.stdout
    assert summary.entries > 52 * 10
    assert summary.rows > 52 * 60
    done = run("verify", cwd=tmp_path, timeout=600, DATABASE_URL=address)
    assert done.returncode == 0, done.stderr


def test_the_example_of_the_documentation():
    """The hash is that of the entry, by the documentation's own text."""
    previous, content, hashed = re.findall(r"```(?:json)?\n([0-9a-f]{64}|\{.*\})\n```", DOCS)
    assert hashlib.sha256(f"{previous}\n{content}".encode()).hexdigest() == hashed
    assert json.dumps(json.loads(content), sort_keys=True, separators=(",", ":")) == content


@pytest.mark.parametrize(
    "query",
    [ENTRIES, ROWS, CLOSES, SPLITS, DIVIDENDS, RATES],
    ids=["journal", "batches", "closes", "splits", "dividends", "rates"],
)
def test_the_queries_of_the_documentation(query):
    """Each query is valid for the schema."""
    assert validate(schema, parse(query)) == []


def test_the_tables_of_the_documentation():
    """
    The document has every column of every row, in order, and every name that an entry gives its
    table.
    """
    documented = {}
    for table, first, rows in re.findall(
        r"\*\*`(\w+)`\*\*: the row under (.*?);.*?\|---\|---\|\n(.*?)\n\n", DOCS, re.DOTALL
    ):
        documented[table] = (
            set(re.findall(r"`(\w+)`", first)),
            re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE),
        )
    names = {table: {name for name, other in MEMBERS.items() if other == table} for table in TABLES}
    assert documented == {
        table: (names[table], list(type_.__struct_fields__)) for table, type_ in TABLES.items()
    }

"""
The journal's head in a git repository: when it is published, what is refused, and what a failure
looks like.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from git_repositories import (
    TOKEN,
    USER,
    commit_files,
    git,
    make_bare,
    read_list,
    served_repositories,
    subjects,
)
from job_context import MONDAY, JobHarness, World, logged, new_york, open_context
from job_context import clock as clock
from provider_server import ProviderServer
from receivers import MessageReceiver
from receivers import receiver as receiver

from app.commands import status
from app.core import settings
from app.database import pools
from app.domain.journal import format_timestamp
from app.domain.model import SERIES, JournalKind, batch_id
from app.errors import Refused, TryAgainAt
from app.ops import snapshot
from app.providers.head_repository import HeadRepository
from app.simulation import rehearsal
from app.store import journal
from app.store.rehearsed import CREATE_CLOCK_TABLE
from app.web.metric_families import snapshot_families
from jobs import daily, published_heads, queue, reconcile, request_budget, weekly

TUESDAY = MONDAY + timedelta(days=1)
JOBS = "SELECT status::text, args FROM procrastinate_jobs WHERE task_name = 'publish_head'"


@pytest.fixture
def bare(tmp_path) -> Path:
    """An empty bare repository."""
    return make_bare(tmp_path / "srv" / "heads.git")


@asynccontextmanager
async def opened_harness(
    database: str, pool: pools.Pool, clock, **environment: str
) -> AsyncIterator[JobHarness]:
    """Open a harness with more settings."""
    world = World(clock)
    async with (
        ProviderServer() as provider,
        open_context(
            database=database, pool=pool, clock=clock, base_url=provider.url, **environment
        ) as context,
    ):
        provider.answers = world
        yield JobHarness(context=context, provider=provider, world=world, clock=clock)


@pytest.fixture
async def harness(
    database, pool, clock, bare, receiver: MessageReceiver, monkeypatch
) -> AsyncIterator[JobHarness]:
    """A harness that publishes in `bare`. No tick of the real Monday is offered."""
    monkeypatch.setattr(queue.app, "periodic_defaults", {"max_delay": 0})
    addresses = {"HEAD_REPOSITORY": str(bare), "ALERT_WEBHOOK_URL": f"{receiver.url}/hook"}
    async with opened_harness(database, pool, clock, **addresses) as opened:
        yield opened


async def run_round(harness: JobHarness) -> int:
    """Do a round of reconciliation, and return how many jobs of this task wait."""
    await reconcile.run_round(harness.context)
    return len(await harness.rows(f"{JOBS} AND status = 'todo'"))


async def publish_due(harness: JobHarness) -> int:
    """Do a round of reconciliation, and run the job that it has deferred. Return their number."""
    waiting = await run_round(harness)
    await work(harness)
    return waiting


async def work(harness: JobHarness) -> None:
    """Run the jobs of this task that are due, and no others."""
    await harness.rows(
        "UPDATE procrastinate_jobs SET scheduled_at = now() + interval '1 year' "
        "WHERE status = 'todo' AND task_name <> 'publish_head'"
    )
    await queue.app.run_worker_async(wait=False, install_signal_handlers=False, listen_notify=False)


async def heads(harness: JobHarness) -> list[str]:
    """Return all entries of the journal as heads."""
    return [f"{entry.seq}:{entry.hash}" for entry in await harness.journal()]


async def publish(harness: JobHarness) -> published_heads.Publication:
    """Publish the head at once."""
    context = harness.context
    return await published_heads.publish(context.pool, context.head_repository, context.now())


# When the head is published


async def test_after_a_batch(harness, bare):
    """The next round defers the job with the lowest priority, and the job publishes the head."""
    await harness.make_batch()
    assert await run_round(harness) == 1
    assert await run_round(harness) == 1
    ((priority, args),) = await harness.rows(
        "SELECT priority, args FROM procrastinate_jobs WHERE task_name = 'publish_head'"
    )
    batch = next(entry for entry in await harness.journal() if entry.kind == "BATCH")
    assert (priority, args) == (-10_000_000, {"seq": str(batch.seq)})
    with logged("INFO", harness.clock) as lines:
        await work(harness)
    entry = (await harness.journal())[-1]
    commit = git(bare, "rev-parse", "main")
    assert subjects(bare) == [f"{entry.seq}:{entry.hash}"]
    assert read_list(bare) == (
        f"seq\thash\tat\n{entry.seq}\t{entry.hash}\t{format_timestamp(entry.at)}\n"
    )
    (line,) = [line for line in lines if "head" in line]
    assert (line["event"], line["head"], line["commit"]) == (
        "head published",
        f"{entry.seq}:{entry.hash}",
        commit,
    )
    assert await harness.rows(
        "SELECT seq, hash, at, commit_id, published_at, failing_since "
        "FROM operations.published_heads"
    ) == [(entry.seq, entry.hash, entry.at, commit, harness.clock.time, None)]
    assert await publish_due(harness) == 0


async def test_not_during_a_monday(harness, bare):
    """A question alone is not published: within minutes, the batch follows."""
    await harness.make_batch()
    await publish_due(harness)
    monday = MONDAY + timedelta(days=7)
    for day in range(1, 8):
        harness.clock.time = new_york(MONDAY + timedelta(days=day))
        await daily.take(harness.context, batch_id(SERIES, MONDAY), day)
    harness.clock.time = new_york(monday, 9, 1)
    async with pools.transaction(harness.context.pool) as conn:
        state = await published_heads.get_state(conn, harness.context.head_repository)
        assert not await published_heads._is_due(
            conn, state, published_seq=state.seq or 0, now=harness.clock.time
        )
    await weekly.run_if_due(harness.context, 1, None)
    assert await publish_due(harness) == 1
    assert subjects(bare)[-1] == (await heads(harness))[-1]


async def test_after_the_last_checkpoint_of_a_morning(harness, bare):
    """Of two checkpoints on one morning, only the second one leads to a publication."""
    await harness.make_batch()
    await publish_due(harness)
    for day in range(1, 8):
        harness.clock.time = new_york(MONDAY + timedelta(days=day))
        await daily.take(harness.context, batch_id(SERIES, MONDAY), day)
    second = MONDAY + timedelta(days=7)
    await harness.make_batch(second)
    await publish_due(harness)
    published = subjects(bare)
    harness.clock.time = new_york(second + timedelta(days=1))
    await daily.take(harness.context, batch_id(SERIES, MONDAY), 8)
    assert await publish_due(harness) == 0
    await daily.take(harness.context, batch_id(SERIES, second), 1)
    assert await publish_due(harness) == 1
    assert subjects(bare) == [*published, (await heads(harness))[-1]]


async def test_at_most_once_an_hour(harness, bare):
    """Later entries of a day are published together, an hour after the last publication."""
    batch = await harness.make_batch()
    harness.clock.time = new_york(TUESDAY)
    await daily.take(harness.context, batch.id, 1)
    assert await publish_due(harness) == 1
    harness.clock.time = new_york(TUESDAY, 9, 59)
    async with pools.transaction(harness.context.pool) as conn:
        await journal.append(
            conn, JournalKind.FAILURE, at=harness.clock.time, recorded={"note": "x"}, batch_id=None
        )
    assert await publish_due(harness) == 0
    harness.clock.time = new_york(TUESDAY, 10, 1)
    assert await publish_due(harness) == 1
    assert subjects(bare)[-1] == (await heads(harness))[-1]


async def test_a_batch_does_not_wait_for_the_hour(harness, bare):
    """A head was published a minute before the batch."""
    await harness.make_batch()
    await publish_due(harness)
    monday = MONDAY + timedelta(days=7)
    for day in range(1, 8):
        harness.clock.time = new_york(MONDAY + timedelta(days=day), 9)
        await daily.take(harness.context, batch_id(SERIES, MONDAY), day)
    harness.clock.time = new_york(monday, 8, 59)
    assert await publish_due(harness) == 1
    await harness.make_batch(monday)
    harness.clock.time = new_york(monday, 9, 1)
    assert await publish_due(harness) == 1
    assert len(subjects(bare)) == 3


@pytest.mark.parametrize("happened", ["cancelled", "failed"])
async def test_a_lost_job(harness, bare, happened):
    """If the job was cancelled or has failed, another one follows after an hour."""
    await harness.make_batch()
    await run_round(harness)
    await harness.rows(
        f"UPDATE procrastinate_jobs SET status = '{happened}' WHERE task_name = 'publish_head'"
    )
    assert await publish_due(harness) == 0
    harness.clock.forward(hours=1)
    assert await publish_due(harness) == 1
    assert len(subjects(bare)) == 1


async def test_without_a_repository(database, pool, clock):
    """Nothing is deferred, and a job of another process does nothing."""
    async with opened_harness(database, pool, clock) as harness:
        await harness.make_batch()
        assert await run_round(harness) == 0
        await published_heads.run(harness.context)
        assert await harness.rows("SELECT FROM operations.published_heads") == []


async def test_the_same_head_is_not_published_twice(harness, bare):
    """Also if what was stored about it is lost, as after a restore."""
    await harness.make_batch()
    assert (await publish(harness)).is_new
    again = await publish(harness)
    assert (again.is_new, again.commit_id) == (False, git(bare, "rev-parse", "main"))
    await harness.rows("DELETE FROM operations.published_heads")
    assert not (await publish(harness)).is_new
    assert len(subjects(bare)) == 1
    (newest,) = subjects(bare)
    assert await harness.rows("SELECT seq || ':' || hash FROM operations.published_heads") == [
        (newest,)
    ]


async def test_an_empty_journal(harness, bare):
    """There is no head to publish."""
    assert await publish_due(harness) == 0
    with pytest.raises(Refused, match=r"^The journal is empty, so it has no head yet\.$"):
        await publish(harness)


# Several processes


async def test_many_publishers_at_once(harness, bare):
    """One of them wins, and the others find its head: there is one commit for each head."""
    await harness.make_batch()
    published = []
    for day in range(1, 4):
        published.append((await heads(harness))[-1])
        outcomes = await asyncio.gather(*(publish(harness) for _ in range(4)))
        # Two commits of one second are equal, and then both of their pushes succeed.
        assert any(one.is_new for one in outcomes)
        assert len({(one.head.seq, one.commit_id) for one in outcomes}) == 1
        harness.clock.time = new_york(MONDAY + timedelta(days=day))
        await daily.take(harness.context, batch_id(SERIES, MONDAY), day)
    assert subjects(bare) == published


async def test_a_publisher_that_is_overtaken(harness, bare, monkeypatch):
    """While one publishes, the journal grows and another publishes the newer head: no error."""
    batch = await harness.make_batch()
    commit_files(bare, README_md="x")
    opened = HeadRepository.opened

    @asynccontextmanager
    async def overtaken(self):
        monkeypatch.setattr(HeadRepository, "opened", opened)
        async with opened(self) as clone:
            push = clone.push

            async def push_late(*arguments, **options):
                clone.push = push
                harness.clock.time = new_york(TUESDAY)
                await daily.take(harness.context, batch.id, 1)
                assert (await publish(harness)).head.seq == len(await heads(harness))
                return await push(*arguments, **options)

            clone.push = push_late
            yield clone

    monkeypatch.setattr(HeadRepository, "opened", overtaken)
    outcome = await publish(harness)
    newest = len(await heads(harness))
    assert (outcome.is_new, outcome.head.seq) == (False, newest)
    assert subjects(bare)[1:] == (await heads(harness))[-1:]
    assert await harness.rows("SELECT seq FROM operations.published_heads") == [(newest,)]


# What is refused


async def refused(harness: JobHarness, bare: Path) -> str:
    """Publish, and return why it is refused. Nothing is pushed."""
    before = git(bare, "for-each-ref")
    with pytest.raises(Refused) as error:
        await publish(harness)
    assert git(bare, "for-each-ref") == before
    return str(error.value)


async def test_a_head_that_contradicts_the_journal(harness, bare):
    """Another record, or a rewritten one: the same number has another hash."""
    await harness.make_batch()
    commit_files(bare, heads_tsv=f"seq\thash\tat\n1\t{'a' * 64}\t2026-10-26T13:00:00.000000Z\n")
    first = (await heads(harness))[0]
    sentence = await refused(harness, bare)
    assert sentence.startswith("HEAD_REPOSITORY contradicts the journal: it has the head 1:aaa")
    assert first in sentence


async def test_a_head_that_is_newer_than_the_journal(harness, bare):
    """For example after a restore of an old backup; the message names both heads."""
    await harness.make_batch()
    commit_files(bare, heads_tsv=f"seq\thash\tat\n99\t{'a' * 64}\t2026-10-26T13:00:00.000000Z\n")
    newest = (await heads(harness))[-1]
    assert await refused(harness, bare) == (
        f"HEAD_REPOSITORY has the head 99:{'a' * 64}, which is newer than the journal's newest "
        f"entry, {newest}. Nothing was pushed."
    )


@pytest.mark.parametrize("how", ["removed", "emptied", "written again"])
async def test_a_repository_that_was_rewritten(harness, bare, how):
    """Its history no longer has our commit, although its heads may fit; the head is named."""
    batch = await harness.make_batch()
    await publish(harness)
    published = subjects(bare)[0]
    content = read_list(bare)
    harness.clock.time = new_york(TUESDAY)
    await daily.take(harness.context, batch.id, 1)
    if how == "emptied":
        commit_files(bare, heads_tsv="seq\thash\tat\n")
    else:
        git(bare, "update-ref", "-d", "refs/heads/main")
    if how == "written again":
        commit_files(bare, heads_tsv=content)
    sentence = await refused(harness, bare)
    assert sentence.startswith("HEAD_REPOSITORY was changed by another program: this service ")
    assert published in sentence
    assert sentence.endswith("Nothing was pushed.")


async def test_a_commit_of_another_program_on_top(harness, bare):
    """A commit that keeps the list is no rewriting: for example, one that adds a README."""
    batch = await harness.make_batch()
    await publish(harness)
    commit_files(bare, heads_tsv=read_list(bare), README_md="Heads.\n")
    harness.clock.time = new_york(TUESDAY)
    await daily.take(harness.context, batch.id, 1)
    assert (await publish(harness)).is_new
    assert subjects(bare)[1] == "A change by another program"
    assert len(subjects(bare)) == 3


async def test_another_branch_begins_anew(harness, bare, database, pool, clock):
    """
    What was published on one branch is not expected on another one. And what was published on the
    first one is remembered.
    """
    await harness.make_batch()
    await publish(harness)
    repository = HeadRepository(str(bare), "second")
    outcome = await published_heads.publish(pool, repository, clock.now())
    assert outcome.is_new
    assert subjects(bare) == subjects(bare, "second")
    git(bare, "update-ref", "-d", "refs/heads/main")
    assert "was changed by another program" in await refused(harness, bare)


async def test_a_rehearsal_is_published_on_this_machine_only(harness, bare, database):
    """Its heads would be taken for those of a live record; a commit says that it is rehearsed."""
    await harness.make_batch()
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(CREATE_CLOCK_TABLE)
    elsewhere = HeadRepository(f"http://u:{TOKEN}@127.0.0.1:1/heads.git", "main")
    with pytest.raises(Refused, match=r"^This is the record of a rehearsal, and HEAD_REPOSITORY "):
        await published_heads.publish(harness.context.pool, elsewhere, harness.clock.now())
    await publish(harness)
    assert git(bare, "log", "--format=%b", "main") == (
        "Rehearsed: every price and every word of this record is made up."
    )


async def test_a_rehearsal_defers_nothing_for_another_machine(database, pool, clock):
    """The job would be refused."""
    address = f"http://u:{TOKEN}@127.0.0.1:1/heads.git"
    async with opened_harness(database, pool, clock, HEAD_REPOSITORY=address) as harness:
        await harness.make_batch()
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute(CREATE_CLOCK_TABLE)
        assert await run_round(harness) == 0


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        (f"https://u:{TOKEN}@git.example/heads.git", ""),
        ("git@git.example:heads.git", ""),
        ("/srv/heads.git", "/srv/heads.git"),
    ],
    ids=["https", "ssh", "path"],
)
def test_the_settings_of_a_rehearsal(address, kept):
    """A repository elsewhere is removed from its settings, so that its jobs never publish there."""
    providers = {
        "OPENAI_BASE_URL": "http://a.example/v1",
        "ALPHA_VANTAGE_BASE_URL": "http://a.example",
    }
    loaded = settings.load(providers | {"HEAD_REPOSITORY": address})
    with rehearsal.running_simulators(loaded, "host=nowhere", calm=True) as provided:
        assert provided.head_repository == kept


# Failures


async def read_words(harness: JobHarness, bare: Path) -> tuple[str, list[str], list[str]]:
    """Return what `status` says about the published head: its line, notes, and what is to do."""
    state = await snapshot.read_for_operator(
        harness.context.pool, settings.load({"HEAD_REPOSITORY": str(bare)}), harness.clock
    )
    lines = [line for line in status.facts(state) if line.startswith("published head: ")]
    notes = [line for line in status.notes(state) if "journal's head" in line]
    return lines[0], notes, [line for line in status.to_dos(state) if "journal's head" in line]


async def fail(harness: JobHarness) -> timedelta:
    """Run the job, which fails, and return the pause until its next attempt."""
    with pytest.raises(TryAgainAt) as error:
        await published_heads.run(harness.context)
    return error.value.at - harness.clock.time


async def test_a_repository_that_is_away(harness, bare, receiver):
    """
    The job is tried again until it succeeds, first often, then once an hour. A day later there is
    one alert, and `status` says that a person must act.
    """
    await harness.make_batch()
    assert (await read_words(harness, bare))[0] == "published head: on; none yet"
    bare.rename(bare.with_suffix(".away"))
    pauses = []
    begun = harness.clock.time
    with logged("WARNING", harness.clock) as lines:
        for _ in range(8):
            pauses.append(await fail(harness))
            harness.clock.time += pauses[-1]
    assert [pause.total_seconds() / 60 for pause in pauses] == [1, 1, 2, 4, 8, 16, 32, 60]
    assert {line["event"] for line in lines} == {"head not published"}
    assert lines[0]["reason"] == (
        "HEAD_REPOSITORY has no git repository: check the address, and that its login may read it."
    )
    line, notes, to_do = await read_words(harness, bare)
    assert line == "published head: on; none yet"
    assert notes == [
        "The journal's head could not be published since Monday, 2026-10-26 09:00 in New York: "
        "HEAD_REPOSITORY has no git repository: check the address, and that its login may read it. "
        "The service tries again within an hour."
    ]
    assert to_do == []
    assert await harness.rows("SELECT FROM operations.alerts") == []

    harness.clock.time = begun + timedelta(days=1)
    for _ in range(3):
        await fail(harness)
        harness.clock.forward(hours=1)
    ((kind, text, to_do_text),) = await harness.rows(
        "SELECT kind, text, to_do FROM operations.alerts"
    )
    assert kind == "head_unpublished"
    assert text == (
        "the journal's head could not be published since 2026-10-26 13:00 UTC: HEAD_REPOSITORY has "
        "no git repository: check the address, and that its login may read it."
    )
    assert "`alpha-monday head --publish`" in to_do_text
    _, notes, to_do = await read_words(harness, bare)
    assert notes == []
    assert len(to_do) == 1
    assert to_do[0].endswith("To try it at once, run `alpha-monday head --publish`.")

    bare.with_suffix(".away").rename(bare)
    await published_heads.run(harness.context)
    line, notes, to_do = await read_words(harness, bare)
    head = (await heads(harness))[-1]
    assert line == f"published head: on; {head}, Tuesday, 2026-10-27 12:00 in New York"
    assert (notes, to_do) == ([], [])
    bare.rename(bare.with_suffix(".away"))
    await fail(harness)
    assert await harness.rows("SELECT count(*) FROM operations.alerts") == [(1,)]


async def test_the_job_waits_in_the_queue(harness, bare):
    """A failure is no strike, and no second job is deferred meanwhile."""
    await harness.make_batch()
    bare.rename(bare.with_suffix(".away"))
    assert await publish_due(harness) == 1
    harness.clock.forward(hours=2)
    assert await run_round(harness) == 1
    assert await harness.rows("SELECT FROM operations.strikes") == []
    ((status_now, _),) = await harness.rows(JOBS)
    assert status_now == "todo"


async def test_the_address_is_neither_logged_nor_stored(database, pool, clock, tmp_path):
    """With a wrong token and with the right one, in no line of the log and in no row."""
    make_bare(tmp_path / "srv" / "heads.git")
    async with served_repositories(tmp_path / "srv") as (_, host):
        for token in (f"wrong-{TOKEN}", TOKEN):
            address = f"http://{USER}:{token}@{host}/heads.git"
            async with opened_harness(database, pool, clock, HEAD_REPOSITORY=address) as harness:
                if token != TOKEN:
                    await harness.make_batch()
                with logged("DEBUG", clock) as lines:
                    if token == TOKEN:
                        await published_heads.run(harness.context)
                    else:
                        await fail(harness)
                assert lines
                assert not [part for part in (TOKEN, host) if part in json.dumps(lines)]
                with psycopg.connect(database) as conn:
                    assert not stored_texts(conn, TOKEN, host)
    assert len(subjects(tmp_path / "srv" / "heads.git")) == 1


def stored_texts(conn: psycopg.Connection, *texts: str) -> list[str]:
    """Return the tables that have one of these texts in a row."""
    tables = conn.execute(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
        "WHERE schemaname IN ('public', 'queue', 'operations')"
    ).fetchall()
    found = []
    for (table,) in tables:
        rows = str(conn.execute(f"SELECT t::text FROM {table} t").fetchall())
        found += [table for text in texts if text in rows]
    return found


async def test_metrics(harness, bare):
    """The number of the published head, its age, and how long publishing has failed."""

    async def read_values() -> dict[str, float]:
        ledger = harness.context.prices.ledger
        configured = request_budget.configured_by(settings.load({}))
        reader = snapshot.MetricsReader(
            harness.context.pool, ledger, harness.clock, configured=configured
        )
        state = await reader.read()
        assert state
        return {
            sample.name.removeprefix("alpha_monday_"): sample.value
            for family in snapshot_families(state)
            for sample in family.samples
            if "_head_" in sample.name
        }

    await harness.make_batch()
    assert await read_values() == {"head_published_seq": 0, "head_failing_seconds": 0}
    await publish(harness)
    harness.clock.forward(minutes=5)
    assert await read_values() == {
        "head_published_seq": len(await heads(harness)),
        "head_published_age_seconds": 300,
        "head_failing_seconds": 0,
    }
    bare.rename(bare.with_suffix(".away"))
    await fail(harness)
    harness.clock.forward(minutes=5)
    assert (await read_values())["head_failing_seconds"] == 300

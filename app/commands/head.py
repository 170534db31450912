"""`alpha-monday head`: the journal's head, and its publication in a git repository."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import click
import msgspec

from app.commands.terminal import (
    async_command,
    clock,
    open_live_record,
    open_record,
    rehearsal_option,
)
from app.core import settings
from app.core.settings import Settings
from app.database import pools
from app.database.rights import Need
from app.domain.published_heads import PublishedHead
from app.errors import Refused
from app.providers.head_repository import HeadRepository
from app.store import rehearsed
from jobs import published_heads


@click.command()
@click.option(
    "--publish", "publishes", is_flag=True, help="Push the head to HEAD_REPOSITORY, if it is new."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, for scripts.")
@rehearsal_option("Use the record of the embedded rehearsal.")
@async_command
async def head(publishes: bool, as_json: bool, rehearsal: bool) -> None:
    """Print the journal's head as SEQ:HASH, and publish it with --publish.

    Keep a copy of the head in another place: `alpha-monday verify --head` then detects a journal
    that was written again, or whose end was cut off.

    With --publish, the head is pushed to the git repository of HEAD_REPOSITORY. A service that has
    this setting does so by itself. docs/operate/heads.md describes the repository. The rehearsal is
    published only in a repository that is named by its path.

    \b
    Exit code: 0 the head was printed, and with --publish the repository has it; 1 the journal is
    empty, or the head could not be read or published.

    \b
    Examples:
      alpha-monday head
      alpha-monday head --publish
    """
    configuration = settings.load()
    if publishes:
        await _publish(configuration, as_json=as_json, rehearsal=rehearsal)
    else:
        await _print_head(configuration, as_json=as_json, rehearsal=rehearsal)


async def _print_head(configuration: Settings, *, as_json: bool, rehearsal: bool) -> None:
    async with (
        open_record(configuration, rehearsal=rehearsal) as pool,
        pool.connection() as conn,
    ):
        newest = await published_heads.get_head(conn)
        is_rehearsed = await rehearsed.is_rehearsed_on_connection(conn)
    if newest is None:
        raise Refused("The journal is empty, so it has no head yet.")
    if as_json:
        _print_json(newest, rehearsed=is_rehearsed)
    else:
        click.echo(newest.text)


async def _publish(configuration: Settings, *, as_json: bool, rehearsal: bool) -> None:
    repository = HeadRepository(configuration.head_repository, configuration.head_branch)
    # Without a repository, the command is refused before it connects to the database.
    repository.require()
    async with _open_for_publishing(configuration, rehearsal=rehearsal) as pool:
        publication = await published_heads.publish(pool, repository, clock.now())
        is_rehearsed = await rehearsed.is_rehearsed(pool)
    if as_json:
        _print_json(
            publication.head,
            rehearsed=is_rehearsed,
            commit=publication.commit_id,
            published=publication.is_new,
        )
        return
    outcome = "Published" if publication.is_new else "Already published"
    click.echo(f"{outcome}: {publication.head.text}")
    click.echo(f"Branch {repository.branch}, commit {publication.commit_id}")


@asynccontextmanager
async def _open_for_publishing(
    configuration: Settings, *, rehearsal: bool
) -> AsyncIterator[pools.Pool]:
    """Open the record with the rights of a worker, because the publication is stored."""
    if rehearsal:
        async with open_record(configuration, rehearsal=True, need=Need.WORK) as pool:
            yield pool
    else:
        async with open_live_record(configuration) as pool:
            yield pool


def _print_json(newest: PublishedHead, **more: Any) -> None:
    document = {"seq": newest.seq, "hash": newest.hash, "at": newest.at, "head": newest.text}
    click.echo(msgspec.json.encode(document | more))

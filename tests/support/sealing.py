"""
Sealed and unsealed contents of a journal: the same record as two versions of the service wrote it.

A version before the sealing wrote no declarations, no claims of questions, no READINGS entries and
no total returns. Its questions have no `profile_sha256`.
"""

import json
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import psycopg
from psycopg import sql

from app.domain import journal
from app.domain.verification.entries import entry_batch_id

Content = dict[str, Any]

_SEALED_KINDS = ("GENESIS", "SETTINGS", "SERIES", "READINGS", "EXTENSION")
# The columns of a total return, which version 0.4.0 does not know.
TOTAL_RETURNS = {
    "checkpoints": (
        "benchmark_dividends",
        "benchmark_total_return_pct",
        "benchmark_spin_off_counted_once",
    ),
    "pick_checkpoint_metrics": (
        "dividends",
        "total_return_pct",
        "vs_benchmark_total_pct",
        "spin_off_counted_once",
    ),
}


def without_sealing(contents: Iterable[Content]) -> list[Content]:
    """Return the contents that a version before the sealing would have written."""
    before = [
        _without_total_returns(_without_profile(content))
        for content in contents
        if content["kind"] not in _SEALED_KINDS and not is_claim(content)
    ]
    return [content for content in before if content.get("corrections") != []]


def is_claim(content: Content) -> bool:
    """Return whether an entry is the claim of a question."""
    return content["kind"] == "GENERATION" and "accepted" not in content["generation"]


def _without_profile(content: Content) -> Content:
    content = deepcopy(content)
    content.get("generation", {}).pop("profile_sha256", None)
    return content


def _without_total_returns(content: Content) -> Content:
    content = deepcopy(content)
    content.pop("dividends", None)
    if "corrections" in content:
        gone = {column for columns in TOTAL_RETURNS.values() for column in columns}
        content["corrections"] = [row for row in content["corrections"] if row["field"] not in gone]
    for row in content.get("metrics", []):
        for column in TOTAL_RETURNS["pick_checkpoint_metrics"]:
            row.pop(column, None)
    for column in TOTAL_RETURNS["checkpoints"]:
        content.get("checkpoint", {}).pop(column, None)
    return content


def unseal(database: str) -> None:
    """Write the journal of a record as a version before the sealing would have written it."""
    with psycopg.connect(database) as conn:
        conn.execute("SET session_replication_role = replica")
        rows = conn.execute("SELECT content FROM journal ORDER BY seq").fetchall()
        contents = without_sealing(json.loads(content) for (content,) in rows)
        conn.execute("DELETE FROM journal")
        # Those of the sealed journal: they are about entries with other hashes.
        conn.execute("DELETE FROM timestamps")
        conn.execute("UPDATE generations SET profile_sha256 = NULL")
        conn.execute("DELETE FROM dividends")
        gone = [column for columns in TOTAL_RETURNS.values() for column in columns]
        conn.execute("DELETE FROM corrections WHERE field = ANY(%s)", [gone])
        for table, columns in TOTAL_RETURNS.items():
            values = sql.SQL(", ").join(
                sql.SQL("{} = NULL").format(sql.Identifier(column)) for column in columns
            )
            conn.execute(sql.SQL("UPDATE {} SET {}").format(sql.Identifier(table), values))
        write_journal(conn, contents)


def write_journal(conn: psycopg.Connection, contents: Iterable[Content]) -> None:
    """Write the entries of an empty journal: `seq` and the hashes follow from their order."""
    before = journal.GENESIS_HASH
    for seq, content in enumerate(contents, 1):
        content["seq"] = str(seq)
        text = journal.canonical_json(content)
        hashed = journal.entry_hash(before, text)
        conn.execute(
            "INSERT INTO journal (seq, kind, at, content, previous, hash, batch_id) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s)",
            (seq, content["kind"], content["at"], text, before, hashed, entry_batch_id(content)),
        )
        before = hashed


def sealed_late(contents: list[Content], cut: int) -> list[Content]:
    """
    Return the contents of a record that was sealed late: before the entry at the index `cut`.

    `contents` are those of a sealed record. The entries before `cut` become those of an earlier
    version. A late GENESIS follows, then the rows that no entry mentions, and then the settings.
    """
    first, series = contents[0], contents[1]
    before = without_sealing(contents[:cut])
    at = contents[cut - 1]["at"]
    origin = first["genesis"]["origin"]
    if origin == "LIVE":
        origin = "UNKNOWN"
    genesis = {
        "kind": "GENESIS",
        "at": at,
        "genesis": {**first["genesis"], "late": "true", "origin": origin},
        "settings": first["settings"],
    }
    adopted = {
        "kind": "READINGS",
        "at": at,
        "adopted": "true",
        "closes": _never_mentioned(contents[:cut], before, "closes"),
        "splits": _never_mentioned(contents[:cut], before, "splits"),
        "rates": _never_mentioned(contents[:cut], before, "rates"),
        "generations": _open_questions(contents[:cut]),
    }
    settings = {"kind": "SETTINGS", "at": at, "settings": first["settings"], "sealed": "true"}
    asked_before = {content["generation"]["id"] for content in contents[:cut] if is_claim(content)}
    after = [
        _without_profile(content)
        if content.get("generation", {}).get("id") in asked_before
        else content
        for content in contents[cut:]
    ]
    # The last part of the record may have no entry that needs the declaration.
    declared = [{**series, "at": one["at"]} for one in after[:1]]
    return [*before, genesis, adopted, settings, *declared, *after]


def _never_mentioned(
    sealed: list[Content], unsealed: list[Content], member: str
) -> list[dict[str, str]]:
    mentioned = [row for content in unsealed for row in content.get(member, [])]
    read = [
        row
        for content in sealed
        if content["kind"] == "READINGS"
        for row in content.get(member, [])
    ]
    return [row for row in read if row not in mentioned]


def _open_questions(contents: list[Content]) -> list[dict[str, str]]:
    questions = {
        content["generation"]["id"]: _without_profile(content)["generation"]
        for content in contents
        if content["kind"] == "GENERATION"
    }
    return [question for question in questions.values() if "accepted" not in question]

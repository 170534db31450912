"""
The record stays right although one of four requests to the providers meets a known fault.

Temporary faults cost neither a Monday nor a checkpoint. `app.simulation.odd_providers` has the
faults and how often each is injected. Every run tries four weeks, and `make test-long` a year. The
variable `FUZZ_SEED` of the environment sets another seed.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

import psycopg
import pytest
from commands import run, served
from odd_checker import GONE, RecordChecker

from app.simulation.odd_faults import THINKING_SECONDS
from app.simulation.odd_providers import ANY_REQUEST, BARS, METADATA, SLIPS, SPLITS
from tests.scenarios.test_independent_verifier import verify_from_outside

UNTIL = date(2026, 10, 30)
SEED = os.environ.get("FUZZ_SEED", "a year of odd answers")


@contextmanager
def rehearsed(folder: Path, address: str, weeks: int) -> Iterator[tuple[str, RecordChecker]]:
    """
    Rehearse some weeks with faults, and serve them.

    Yields the address at which they are served, and the checker of their record.
    """
    with served(
        "rehearse",
        "--single",
        "--weeks",
        weeks,
        "--until",
        UNTIL,
        "--odd",
        SEED,
        cwd=folder,
        DATABASE_URL=address,
    ) as url:
        lines = (folder / ".alpha-monday" / "requests.jsonl").read_text().splitlines()
        last = UNTIL - timedelta(days=UNTIL.weekday())
        yield (
            url,
            RecordChecker(
                address,
                requests=[json.loads(line) for line in lines],
                seed=SEED,
                first=last - timedelta(weeks=weeks - 1),
                until=UNTIL,
            ),
        )


def check_everything(folder: Path, address: str, url: str, checker: RecordChecker) -> None:
    """Check the record with the checker, `alpha-monday verify`, and the independent verifier."""
    discrepancies = checker.check()
    for name, count in sorted(checker.counts.items()):
        print(f"{count:>7,} {name}")
    print(dict(checker.faults().most_common()))
    print("\n".join(discrepancies))
    entries = verify_from_outside(url).entries
    done = run("verify", cwd=folder, timeout=600, DATABASE_URL=address)
    assert done.returncode == 0, done.stderr
    assert f"Everything fits: {entries:,} entries, " in done.stdout
    assert "Traceback" not in (folder / ".alpha-monday" / "rehearsal.log").read_text()
    assert discrepancies == []


@pytest.mark.long
def test_four_weeks(tmp_path, create):
    """All figures are true, and no temporary fault makes a Monday fail."""
    address = create()
    with rehearsed(tmp_path, address, 4) as (url, checker):
        assert sum(checker.faults().values()) > len(checker.requests) / 4
        check_everything(folder=tmp_path, address=address, url=url, checker=checker)


def test_a_model_that_thinks(tmp_path, create):
    """The model thinks for a minute and a half of simulated time, and its answer is accepted."""
    address, rules = create(), [{"provider": "openai", "fault": "thinks"}]
    (tmp_path / "faults.json").write_text(json.dumps(rules))
    options = (
        "--weeks",
        1,
        "--until",
        "2026-10-26",
        "--calm",
        "--faults",
        "faults.json",
        "--no-serve",
    )
    done = run("rehearse", "--single", *options, cwd=tmp_path, DATABASE_URL=address)
    assert done.returncode == 0, done.stderr
    with psycopg.connect(address) as conn:
        rows = conn.execute(
            "SELECT answered_at - asked_at, accepted, attempt FROM generations"
        ).fetchall()
    ((took, accepted, attempt),) = rows
    assert timedelta(seconds=THINKING_SECONDS) <= took < timedelta(seconds=THINKING_SECONDS + 10)
    assert (accepted, attempt) == (True, 1)


@pytest.mark.long
def test_a_year(tmp_path, create):
    """The same for 52 weeks, in which every kind of fault is injected."""
    address = create()
    with rehearsed(tmp_path, address, 52) as (url, checker):
        check_everything(folder=tmp_path, address=address, url=url, checker=checker)
        injected = {name.split()[1] for name in checker.faults()}
        lasting = {
            "restated",
            "late_split",
            "very_late_split",
            "split_in_two",
            "baseline_corrected",
            "late_bar",
        }
        assert {*ANY_REQUEST, *BARS, *SPLITS, *lasting, *GONE} <= injected
        assert len(injected & {*METADATA, *SLIPS}) >= 12  # there are about seventy questions
        with psycopg.connect(address) as conn:
            (split_count,) = conn.execute("SELECT count(*) FROM splits").fetchone() or (0,)
            assert split_count > 5

"""
Every known way in which providers err, at one request in four: the record stays right, and what passes costs nothing.

`app.simulation.odd_providers` says what errs and how often. Four weeks are tried in every run, a year with
`make test-long`; `FUZZ_SEED` in the environment sets another seed.
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
from odd_judge import GONE, Judge
from test_stranger import verify_from_outside

from app.simulation.odd_faults import THOUGHT
from app.simulation.odd_providers import ANY_REQUEST, BARS, METADATA, SLIPS, SPLITS

UNTIL = date(2026, 10, 30)
SEED = os.environ.get("FUZZ_SEED", "a year of odd answers")


@contextmanager
def judged(folder: Path, address: str, weeks: int) -> Iterator[tuple[str, Judge]]:
    """Live through weeks of odd providers; the address at which they are served, and the judge of their record."""
    with served("rehearse", "--weeks", weeks, "--until", UNTIL, "--odd", SEED, cwd=folder, DATABASE_URL=address) as url:
        lines = (folder / ".alpha-monday" / "requests.jsonl").read_text().splitlines()
        last = UNTIL - timedelta(days=UNTIL.weekday())
        yield url, Judge(address, [json.loads(line) for line in lines], SEED, last - timedelta(weeks=weeks - 1), UNTIL)


def holds(folder: Path, address: str, url: str, judge: Judge) -> None:
    """Everything is right, by the judge, by `alpha-monday verify` and by the verifier of docs/journal.md."""
    misfits = judge.judge()
    for what, count in sorted(judge.counted.items()):
        print(f"{count:>7,} {what}")
    print(dict(judge.faults().most_common()))
    print("\n".join(misfits))
    entries = verify_from_outside(url).entries
    done = run("verify", cwd=folder, timeout=600, DATABASE_URL=address)
    assert done.returncode == 0, done.stderr
    assert f"Everything fits: {entries:,} entries, " in done.stdout
    assert "Traceback" not in (folder / ".alpha-monday" / "rehearsal.log").read_text()
    assert misfits == []


def test_four_weeks(tmp_path, create):
    """No figure differs from the market's, and no Monday is lost to something transient."""
    address = create()
    with judged(tmp_path, address, 4) as (url, judge):
        assert sum(judge.faults().values()) > len(judge.requests) / 4
        holds(tmp_path, address, url, judge)


def test_a_model_that_thinks(tmp_path, create):
    """A minute and a half of the rehearsal's time lie between question and answer, and the answer is taken."""
    address, rules = create(), [{"provider": "openai", "fault": "thinks"}]
    (tmp_path / "faults.json").write_text(json.dumps(rules))
    options = ("--weeks", 1, "--until", "2026-10-26", "--calm", "--faults", "faults.json", "--no-serve")
    done = run("rehearse", *options, cwd=tmp_path, DATABASE_URL=address)
    assert done.returncode == 0, done.stderr
    with psycopg.connect(address) as conn:
        found = conn.execute("SELECT answered_at - asked_at, accepted, attempt FROM generations").fetchall()
    ((took, accepted, attempt),) = found
    assert timedelta(seconds=THOUGHT) <= took < timedelta(seconds=THOUGHT + 10)
    assert (accepted, attempt) == (True, 1)


@pytest.mark.long
def test_a_year(tmp_path, create):
    """As above, for 52 weeks, in which every fault of the mix was met."""
    address = create()
    with judged(tmp_path, address, 52) as (url, judge):
        holds(tmp_path, address, url, judge)
        met = {name.split()[1] for name in judge.faults()}
        lasting = {"restated", "late_split", "very_late_split", "split_in_two", "baseline_corrected", "late_bar"}
        assert {*ANY_REQUEST, *BARS, *SPLITS, *lasting, *GONE} <= met
        assert len(met & {*METADATA, *SLIPS}) >= 12  # there are about seventy questions
        with psycopg.connect(address) as conn:
            (learnt,) = conn.execute("SELECT count(*) FROM splits").fetchone() or (0,)
            assert learnt > 5

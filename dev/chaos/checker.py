"""
Checks the invariants after the storm, in the database and in the simulators' log of requests.

The checker computes everything itself. Of the project's code it uses only the simulated market, the
simulated blocks and the list of the storm's series, which are no part of the service. Timestamps
are read by programs that share no code with it: `openssl`, and the tests' own reader of
OpenTimestamps. `alpha-monday verify` and the independent verifier of the tests are further,
separate checks.
"""

import hashlib
import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import storm_series

from app.domain.calendar import Calendar
from app.simulation.market import Market
from app.simulation.timestamp_calendar import simulated_block

sys.path.append(str(Path(__file__).parents[2] / "tests" / "support"))
import openssl_program
import opentimestamps_reader
from independent_verifier import verifier as independent_verifier
from independent_verifier.refused import RecordRefused

NEW_YORK = ZoneInfo("America/New_York")
OPEN_TIME = time(9, 30)
# The times of a morning at which closes are requested.
REQUEST_TIMES = (time(9), time(9, 30), time(10, 30), time(12, 30), time(16, 30), time(20, 30))

# How late, in simulated time, anything may be that needs no provider: reconciliation runs at the
# end of every jump of the clock.
MAX_LATENESS = timedelta(hours=2)

# Why a Monday fails on which the server of its model has one of these faults all day.
REASONS = {
    "hang": "PROVIDER_ERROR",
    "prose": "NO_USABLE_ANSWER",
    "bad_key": "CONFIGURATION",
    "unknown_model": "CONFIGURATION",
}
# The beginnings of the refusal of a question that no answer of its server has reached. Its process
# was harmed before it stored the answer, or it was stopped for longer than the time limit. A loaded
# machine can also use up that limit, which is 2.5 s in a chaos.
UNANSWERED = ("No answer was stored", "The model did not answer within")

# Words of the kinds of harm after which a request may be delayed, see `inv_7_the_limits_held`.
DELAYING_HARM = ("SIGSTOP", "Postgres", "running")
# In seconds: a request that arrives later after its grant was delayed by a harm.
MAX_TRANSIT = 1.5
# In seconds: how much earlier than its grant a request may seem to arrive, because the simulators
# read the time from the database.
CLOCK_TOLERANCE = 0.05

# The names in the simulators' log of the services that stamp, and the function of a request for the
# rest of a proof.
AUTHORITY, CALENDAR = "timestamp", "calendar"
UPGRADE = "timestamp"
# In seconds: the batches of one slot share one timestamp, and so do the checkpoints of one slot,
# which ends ten minutes after a full hour.
BATCH_SLOT, CHECKPOINT_SLOT, CHECKPOINT_SLOT_END = 10, 3600, 600

Row = dict[str, Any]
FetchRows = Callable[[str], list[tuple[Any, ...]]]


class InvariantBroken(Exception):
    """An invariant does not hold; the text shows the rows."""


class Observations(NamedTuple):
    """
    What the run itself observed.

    `end` is the end of simulated time. `heads` are heads of the journal that were seen. `harm` has
    how often each kind of harm was done. `problems` are sentences about processes that behaved
    wrongly. `verify` runs `alpha-monday verify` for a head, on the database or through the API,
    whose address is `url`. `keys` are the keys of the service. `timestamp_root` is the root
    certificate of the time-stamping authority, in PEM form.
    """

    end: datetime
    heads: set[tuple[int, str]]
    harm: Counter[str]
    problems: list[str]
    verify: "Callable[[tuple[int, str], str], subprocess.CompletedProcess[str]]"
    url: str
    keys: list[str]
    timestamp_root: bytes


class InvariantChecker:
    """Everything that was stored and requested, and the invariants."""

    def __init__(self, fetch_rows: FetchRows, request_log: Path, observed: Observations) -> None:
        self.fetch_rows = fetch_rows
        self.observed = observed
        self.batches = self._table("SELECT * FROM batches ORDER BY run_date, series")
        self.picks = self._table("SELECT * FROM picks ORDER BY batch_id, position")
        self.checkpoints = self._table("SELECT * FROM checkpoints ORDER BY batch_id, day")
        self.metrics = self._table("SELECT * FROM pick_checkpoint_metrics")
        self.closes = {
            row["id"]: row for row in self._table("SELECT * FROM closes ORDER BY read_at")
        }
        self.splits = self._table("SELECT * FROM splits ORDER BY read_at")
        self.journal = self._table("SELECT * FROM journal ORDER BY seq")
        self.generations = self._table(
            "SELECT * FROM generations ORDER BY series, run_date, attempt"
        )
        self.jobs = self._table("SELECT * FROM procrastinate_jobs ORDER BY id")
        self.timestamps = self._table("SELECT * FROM timestamps ORDER BY seq, received_at")
        self.contents = [json.loads(entry["content"]) for entry in self.journal]
        self.folder = request_log.parent
        lines = map(json.loads, request_log.read_text().splitlines())
        self.requests = [{**line, "at": datetime.fromisoformat(line["at"])} for line in lines]
        self.market = Market(Calendar())
        self.broken = read_broken_mondays(self.folder)

    def _table(self, sql: str) -> list[Row]:
        keys = self.fetch_rows(f"SELECT json_object_keys(to_json(t)) FROM ({sql} LIMIT 1) t")
        names = [name for (name,) in keys]
        return [dict(zip(names, row, strict=True)) for row in self.fetch_rows(sql)]

    def invariants(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """
        Yield each invariant's name and its function.

        The function raises InvariantBroken, or returns a text with what it counted.
        """
        # dir() sorts the names, and so the numbers and letters in them give the order.
        for name in dir(self):
            if name.startswith("inv_"):
                yield name[6:].replace("_", " "), getattr(self, name)

    # The record

    def inv_1_every_Monday_of_every_series_has_one_row(self) -> str:
        """
        Every Monday from the first on has a batch of each series; a failed one has its reason.

        A Monday on which the server of a model failed all day must have failed, for the reason that
        this fault has, and the other series must not have suffered from it. No reason is MISSED.
        """
        mondays = self._mondays_since(min(row["run_date"] for row in self.batches))
        failed = [row for row in self.batches if row["status"] == "failed"]
        for one in storm_series.SERIES:
            run_dates = [row["run_date"] for row in self.batches if row["series"] == one.name]
            expect(run_dates == mondays, (one.name, run_dates))
        names = {one.name for one in storm_series.SERIES}
        expect({row["series"] for row in self.batches} == names, names)

        others = []
        for row in failed:
            self._check_failure(row)
            if _key_of(row) not in self.broken:
                others.append(row)
        due = [key for key in self.broken if key[1] in mondays]
        broken = [row for row in failed if _key_of(row) in self.broken]
        expect(len(broken) == len(due), (due, broken))
        # A chaos in which many other Mondays fail would prove little. One may always fail: one
        # Monday in sixty gets three wrong answers by chance, which depends on the times of the
        # questions.
        expect(len(others) <= max(1, len(self.batches) // 8), others)
        details = [
            f"failed {row['series']} {row['run_date']}: {row['failure_reason']}" for row in failed
        ]
        counts = (
            f"{len(mondays)} Mondays of {len(names)} series, {len(broken)} failed because their "
            f"server did, {len(others)} failed otherwise"
        )
        return "; ".join([counts, *details])

    def _check_failure(self, row: Row) -> None:
        """Check the reason of a failed batch, and its number of questions."""
        reason = row["failure_reason"]
        questions = self._questions_of(row)
        expect(reason not in (None, "MISSED") and row["failure"], row)
        expect(len(questions) == 3 or reason != "NO_USABLE_ANSWER", row)
        expect(not self._picks_of(row), row)
        fault = self.broken.get(_key_of(row))
        if fault is None:
            # Neither the series itself nor the fault of another one is a reason to call the
            # configuration wrong.
            expect(reason != "CONFIGURATION", row)
            return
        # If the last question got no answer, the Monday failed for that reason.
        is_unanswered = bool(questions) and questions[-1]["refusal"].startswith(UNANSWERED)
        expected = "PROVIDER_ERROR" if is_unanswered else REASONS[fault]
        expect(reason == expected, (fault, row, questions))
        # A setting that is wrong stays wrong, so it is asked about once: a further question is
        # asked only after one without an answer.
        answered = [one for one in questions if not one["refusal"].startswith(UNANSWERED)]
        expect(len(answered) <= 1 or reason != "CONFIGURATION", (fault, questions))

    def _questions_of(self, batch: Row) -> list[Row]:
        return [row for row in self.generations if _key_of(row) == _key_of(batch)]

    def _mondays_since(self, first: date) -> list[date]:
        """Return the Mondays from `first` on whose run has begun by the end."""
        weeks = (self.observed.end.date() - first).days // 7 + 1
        mondays = [first + timedelta(weeks=week) for week in range(weeks)]
        return [monday for monday in mondays if at_nine(monday) <= self.observed.end]

    def inv_2_every_fortnight_has_its_days_once(self) -> str:
        """
        Every batch has its days that are due by the end, each once and on its date.

        Days after a closed exchange are skipped with MARKET_CLOSED, and only those.
        """
        counts: Counter[str] = Counter()
        for batch in self._made_batches():
            checkpoints = self._checkpoints_of(batch)
            days = [row["day"] for row in checkpoints]
            due = self._due_days(batch)
            expect(days == due, (batch["run_date"], days, due))
            expected_status = "completed" if due[-1] == 14 else "active"
            expect(batch["status"] == expected_status, batch)
            expect(len(self._picks_of(batch)) == 3, batch)
            for row in checkpoints:
                self._check_day(batch, row)
                counts[_outcome(row)] += 1
        resolved = counts["computed"] + counts["skipped, MARKET_CLOSED"]
        unresolved = counts.total() - resolved
        # Missing prices may cost a few days, but not many.
        expect(unresolved <= counts.total() // 20, counts)
        return ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())

    def _due_days(self, batch: Row) -> list[int]:
        moments = [at_nine(batch["run_date"] + timedelta(days=day)) for day in range(15)]
        return [day for day, moment in enumerate(moments) if moment <= self.observed.end]

    def _check_day(self, batch: Row, row: Row) -> None:
        """Check the date, the status and the number of metrics of one checkpoint."""
        session = batch["run_date"] + timedelta(days=row["day"] - 1)
        is_closed = not self.market.calendar.is_session(session) and row["day"] > 0
        expect(row["checkpoint_date"] == batch["run_date"] + timedelta(days=row["day"]), row)
        expect((row["skip_reason"] == "MARKET_CLOSED") == is_closed, row)
        lateness = (row["skipped_at"] or row["taken_at"]) - at_nine(row["checkpoint_date"])
        expect(lateness >= timedelta(0), row)
        expect(not is_closed or lateness < MAX_LATENESS, row)
        metrics = [metric for metric in self.metrics if metric["checkpoint_id"] == row["id"]]
        is_measured = row["status"] == "computed" and row["day"] > 0
        expect(len(metrics) == (3 if is_measured else 0), row)
        if is_measured:
            expect(row["trading_day"] == session, row)

    def inv_3_every_figure_can_be_computed_again(self) -> str:
        """
        Every figure can be computed again from the readings that the rows name.

        The splits in force are used, in the order of docs/record.md.
        """
        figures = 0
        with localcontext(Context(prec=28, rounding=ROUND_HALF_EVEN)):
            for batch in self._made_batches():
                initial = self._close(
                    batch["benchmark_initial_close_id"], "SPY", batch["trading_day"]
                )
                expect(initial == batch["benchmark_initial_price"], batch)
                for row in self._checkpoints_of(batch):
                    if row["status"] == "computed":
                        figures += self._check_figures(batch, initial, row)
        return f"{figures} figures"

    def _check_figures(self, batch: Row, benchmark_initial: Decimal, row: Row) -> int:
        """Check the figures of one checkpoint; return how many there are."""
        baseline, session = batch["trading_day"], row["trading_day"]
        price = self._close(row["benchmark_close_id"], "SPY", session)
        factor = self._split_factor("SPY", baseline, session)
        expect((row["benchmark_price"], row["benchmark_split_factor"]) == (price, factor), row)
        if row["day"] == 0:
            expect(row["benchmark_return_pct"] is None and price == benchmark_initial, row)
            return 1
        benchmark_return = (price * factor - benchmark_initial) / benchmark_initial * 100
        expect(row["benchmark_return_pct"] == benchmark_return, row)
        for pick in self._picks_of(batch):
            self._check_metric(batch, row, pick, benchmark_return=benchmark_return)
        return 1 + 3 * 4

    def _check_metric(self, batch: Row, row: Row, pick: Row, *, benchmark_return: Decimal) -> None:
        ticker, baseline, session = pick["ticker"], batch["trading_day"], row["trading_day"]
        key = (row["id"], pick["id"])
        (metric,) = [one for one in self.metrics if (one["checkpoint_id"], one["pick_id"]) == key]
        initial = self._close(pick["initial_close_id"], ticker, baseline)
        expect(pick["initial_price"] == initial, pick)

        price = self._close(metric["close_id"], ticker, session)
        factor = self._split_factor(ticker, baseline, session)
        absolute = (price * factor - initial) / initial * 100
        expected = (price, factor, absolute)
        stored = (metric["current_price"], metric["split_factor"], metric["absolute_return_pct"])
        expect(stored == expected, (ticker, row["checkpoint_date"], stored, expected))
        expect(metric["vs_benchmark_pct"] == absolute - benchmark_return, metric)

        entry = self.closes[pick["entry_close_id"]]
        expect(entry["trading_day"] == self._session_from(batch["run_date"]), pick)
        expect(pick["entry_open"] == entry["open"], pick)
        since_entry = self._split_factor(ticker, entry["trading_day"], session)
        from_open = (price * since_entry - entry["open"]) / entry["open"] * 100
        expect(metric["return_from_open_pct"] == from_open, metric)

    def inv_4_every_reading_equals_the_market(self) -> str:
        """
        Every reading equals the simulated market's, and is stored once.

        It is about a day before the day on which it was read.
        """
        readings = Counter(
            (row["ticker"], row["trading_day"], row["open"], row["close"])
            for row in self.closes.values()
        )
        duplicates = [reading for reading, count in readings.items() if count > 1]
        expect(not duplicates, duplicates)
        for row in self.closes.values():
            expect(row["trading_day"] < row["read_at"].astimezone(NEW_YORK).date(), row)
            ((day, bar),) = self.market.bars(row["ticker"], row["trading_day"], 1)
            market = (day, Decimal(bar.close), Decimal(bar.open))
            expect(market == (row["trading_day"], row["close"], row["open"]), row)
        tickers = {row["ticker"] for row in self.closes.values()}
        return f"{len(self.closes)} readings of {len(tickers)} tickers"

    def inv_5_the_journal_is_complete_and_only_grew(self) -> str:
        """
        The chain of hashes fits, and contains every head that was seen during the run.

        The record is sealed: it begins with GENESIS, and each question and reading has its entry.
        """
        previous, chain = "0" * 64, set()
        for number, entry in enumerate(self.journal, 1):
            content = json.loads(entry["content"])
            numbers = (entry["seq"], content["seq"], entry["previous"])
            expect(numbers == (number, str(number), previous), entry)
            previous = hashlib.sha256(f"{previous}\n{entry['content']}".encode()).hexdigest()
            expect(entry["hash"] == previous, entry)
            chain.add((number, previous))
        heads = self.observed.heads
        expect(heads <= chain, sorted(heads - chain))
        self._check_first_mentions()
        return f"{len(self.journal)} entries, {len(heads)} heads seen on the way"

    def _check_first_mentions(self) -> None:
        """Check that every question was first claimed, and every reading first in its response."""
        contents = self.contents
        begin = contents[0]
        expect(begin["kind"] == "GENESIS" and begin["genesis"]["origin"] == "REHEARSED", begin)
        claimed = [
            content["generation"]["id"]
            for content in contents
            if content["kind"] == "GENERATION" and "accepted" not in content["generation"]
        ]
        questions = [str(row["id"]) for row in self.generations]
        expect(sorted(claimed) == sorted(questions), set(claimed) ^ set(questions))

        responses = [content for content in contents if content["kind"] == "READINGS"]
        closes: list[str] = []
        for content in responses:
            closes += [close["id"] for close in content["closes"]]
        stored = [str(id) for id in self.closes]
        expect(sorted(closes) == sorted(stored), set(closes) ^ set(stored))
        splits = sum(len(content["splits"]) for content in responses)
        expect(splits == len(self.splits), (splits, self.splits))

    def inv_6_both_verifications_fit(self) -> str:
        """
        `alpha-monday verify` succeeds on the database and the API, with all timestamps.

        The independent verifier accepts the API's record, too, with as many entries.
        """
        newest = max(self.observed.heads)
        results = [self.observed.verify(newest, source) for source in ("database", "API")]
        outputs = [result.stdout + result.stderr for result in results]
        expect(all(result.returncode == 0 for result in results), outputs)
        complete = {row["seq"] for row in self._stamps("OPENTIMESTAMPS", "CONFIRMED")}
        promised = {row["seq"] for row in self._stamps("OPENTIMESTAMPS", "PENDING")}
        stamps = (
            f"Timestamps: {len(self._stamps('RFC3161'))} of authorities verify, "
            f"{len(complete)} lead into Bitcoin blocks, {len(promised - complete)} pending."
        )
        expect(all(stamps in output for output in outputs), (stamps, outputs))
        try:
            independent = independent_verifier.verify(self.observed.url, newest)
        except RecordRefused as error:
            raise InvariantBroken(f"the independent verifier: {error}") from error
        expect(independent.entries == len(self.journal), independent)
        last = results[-1]
        # The last line has the counts; the first one says since when the record is sealed.
        summary = (last.stdout or last.stderr).strip().splitlines()[-1][:80]
        return f"{summary}; independently {independent.entries} entries, {independent.rows} rows"

    # The providers

    def inv_7_the_limits_held(self) -> str:
        """
        Grants and requests keep the limits: one a second, five a minute, 25 a day.

        Grants keep them exactly. A request that arrives later after its grant than the ledger's
        margin may come too close to the next one, by just as much.

        A request arrives later than a grant is valid only for three reasons: its process was
        suspended between reading the clock and sending the request; it was sent while Postgres
        was away, from which the simulators have their time; or its job was deleted meanwhile, so
        that nothing prevented simulated time from jumping.

        A request that ended before its grant was granted just before a process that came up after
        a long outage of Postgres set simulated time back; so the earlier of both times counts.
        """
        granted = self.fetch_rows(
            "SELECT least(at, ended_at), function, symbol FROM operations.provider_requests "
            "ORDER BY 1, id"
        )
        requests = [line for line in self.requests if line["provider"] == "alphavantage"]
        received = self._match_grants(requests, granted)
        delayed = [(str(at), transit) for at, transit in received if transit > MAX_TRANSIT]
        expect(len(delayed) <= self._possible_delays(), delayed)

        shortest, too_close = {}, 0
        for count, seconds in ((1, 1), (5, 60), (25, 86_400)):
            _check_grants(granted, count, seconds)
            gaps = _gaps(received, count)
            unexplained = [gap for gap in gaps if gap[0] + gap[1] < seconds]
            expect(not unexplained, (count, seconds, unexplained))
            too_close += sum(gap[0] < seconds for gap in gaps)
            shortest[count] = min(gaps, default=(0.0,))[0]

        refused = sum(line["refused"] in ("burst", "quota") for line in requests)
        # A delayed request may be refused, and so may the one that it came close to.
        expect(refused <= too_close + 2 * len(delayed), refused)
        return (
            f"{len(received)} received of {len(granted)} granted, 1, 5 and 25 more within no less "
            f"than {shortest[1]:.2f} s, {shortest[5]:.1f} s and {shortest[25] / 3600:.1f} h; "
            f"{too_close} came too close, being late by more than the margin "
            f"({len(delayed)} of them by more than leave lasts); {refused} refused for it"
        )

    def _match_grants(
        self, requests: Sequence[Row], granted: Sequence[tuple[datetime, str, str]]
    ) -> list[tuple[datetime, float]]:
        """
        Return when each request was received, and how many seconds after its grant.

        Each grant serves one request.
        """
        unused = defaultdict(list)
        for at, function, ticker in granted:
            unused[function, ticker].append(at)
        received = []
        for request in sorted(requests, key=lambda one: one["at"]):
            grants = unused[request["function"], _ticker(request)]
            latest = request["at"] + timedelta(seconds=CLOCK_TOLERANCE)
            earlier = [at for at in grants if at <= latest]
            expect(earlier, ("requested without a grant", request))
            grants.remove(earlier[-1])
            received.append((request["at"], (request["at"] - earlier[-1]).total_seconds()))
        return received

    def inv_8_no_more_was_requested_than_needed(self) -> str:
        """
        There is one good answer for each ticker and time, and one more for each harm.

        A harm may fall between a request and the transaction that stores its answer; then the next
        job sends the request again.
        """
        good = Counter(
            (line["function"], _ticker(line), request_period(line["at"], line["function"]))
            for line in self.requests
            if _is_good_answer(line)
        )
        repeated = {key: count - 1 for key, count in good.items() if count > 1}
        harm = self.observed.harm.total()
        repeats = sum(repeated.values())
        expect(repeats <= harm, repeated)
        return f"{len(good)} good answers needed, {repeats} asked for again after {harm} harms"

    def inv_9_at_most_three_questions_a_Monday(self) -> str:
        """
        A Monday of a series has at most three questions, each sent once at most.

        Each was stored before it was sent, and one may be accepted. Questions without an answer are
        explained by the provider's faults or by a harm. A process that is suspended between the two
        steps sends its question later, perhaps on another day. A control asks no model.
        """
        to_model = [line for line in self.requests if line["provider"] == "openai"]
        series_of = {one.model: one.name for one in storm_series.MODELS}
        sent = Counter(
            (series_of[line["function"]], line["at"].astimezone(NEW_YORK).date())
            for line in to_model
        )
        by_monday = defaultdict(list)
        for row in self.generations:
            by_monday[_key_of(row)].append(row)
        for key, rows in by_monday.items():
            expect([row["attempt"] for row in rows] == list(range(1, len(rows) + 1)), rows)
            expect(len(rows) <= 3 and sent[key] <= len(rows), (key, sent[key], rows))
            expect(sum(bool(row["accepted"]) for row in rows) <= 1, rows)
            expect(all(row["accepted"] is not None for row in rows), rows)
        for name in series_of.values():
            asked = sum(row["series"] == name for row in self.generations)
            arrived = sum(count for key, count in sent.items() if key[0] == name)
            expect(arrived <= asked, (name, arrived, asked))
        on_other_days = sum(count for key, count in sent.items() if key not in by_monday)
        expect(on_other_days <= self._possible_delays(), sent)
        faulty = sum(line["fault"] is not None for line in to_model)
        additional = len(self.generations) - len(by_monday) - faulty
        expect(additional <= self.observed.harm.total(), additional)
        return (
            f"{len(self.generations)} questions, {sent.total()} received, {faulty} of them "
            "answered wrongly"
        )

    def _possible_delays(self) -> int:
        """Return how many harms were done after which a request may be delayed."""
        return sum(count for kind, count in self.observed.harm.items() if _may_delay(kind))

    # The queue and the processes

    def inv_A_the_queue_is_clean(self) -> str:
        """No job runs, failed or was given up; each waiting job is due later, and waits once."""
        status = Counter(job["status"] for job in self.jobs)
        others = [job for job in self.jobs if job["status"] not in ("succeeded", "todo")]
        expect(not others, others)
        waiting = [job for job in self.jobs if job["status"] == "todo"]
        early = [job for job in waiting if self._is_due(job)]
        expect(not early, early)
        copies = Counter(
            (job["task_name"], json.dumps(job["args"], sort_keys=True)) for job in waiting
        )
        expect(max(copies.values(), default=1) == 1, copies.most_common(3))
        return f"{status['succeeded']} jobs succeeded, {status['todo']} wait for days to come"

    def _is_due(self, job: Row) -> bool:
        return job["scheduled_at"] is None or job["scheduled_at"] <= self.observed.end

    def inv_B_every_process_is_well(self) -> str:
        """No process ended by itself or failed to end when stopped; all are healthy at the end."""
        expect(not self.observed.problems, self.observed.problems)
        return "none ended by itself but for want of a database; all three answered well at the end"

    # The timestamps

    def inv_C_every_stamp_verifies(self) -> str:
        """
        Every stored timestamp is about an entry of the chain, and independent programs accept it.

        A complete proof of the calendar leads into the block that the calendar made for it.
        """
        hashes = {entry["seq"]: entry["hash"] for entry in self.journal}
        promised: dict[int, bytes] = {}
        for row in self.timestamps:
            expect(hashes.get(row["seq"]) == row["hash"], row)
            if row["kind"] == "RFC3161":
                expect(self._does_openssl_accept(row), row)
            elif row["status"] == "PENDING":
                promised[row["seq"]] = self._attested(row).message
        for row in self._stamps("OPENTIMESTAMPS", "CONFIRMED"):
            expect(row["seq"] in promised, row)
            leaf, block = self._attested(row), simulated_block(promised[row["seq"]])
            expect((leaf.block, leaf.root) == (block.height, block.merkle_root), row)
            expect(row["block_height"] == block.height, row)
        return f"{len(self.timestamps)} stamps of {len(hashes)} entries"

    def _does_openssl_accept(self, row: Row) -> bool:
        return openssl_program.accepts(
            bytes(row["proof"]),
            data_hash=row["hash"],
            root=self.observed.timestamp_root,
            at=row["at"],
            cwd=self.folder,
        )

    def _attested(self, row: Row) -> opentimestamps_reader.Leaf:
        """Return what a proof of the calendar leads to: a block if it is complete, or its URI."""
        digest, leaves = opentimestamps_reader.read(bytes(row["proof"]))
        expect(digest.hex() == row["hash"], row)
        is_complete = row["status"] == "CONFIRMED"
        found = [leaf for leaf in leaves if (leaf.block if is_complete else leaf.calendar)]
        expect(len(found) == 1, (row, leaves))
        return found[0]

    def inv_D_every_batch_is_stamped_and_every_promise_kept(self) -> str:
        """
        Every batch has a timestamp of the authority and one of the calendar, and no job is left
        over.

        A proof of the calendar that is not complete yet has one job, which asks for the rest later.
        """
        of_authority, of_calendar = self._stamps("RFC3161"), self._stamps("OPENTIMESTAMPS")
        before_open = 0
        for batch, entry in self._batch_entries():
            for stamps in (of_authority, of_calendar):
                expect(stamps and stamps[-1]["seq"] >= entry["seq"], (entry, len(stamps)))
            opens_at = self._opens_at(batch)
            before_open += any(_proves(row, entry, before=opens_at) for row in of_authority)

        waiting = [job for job in self.jobs if job["status"] == "todo"]
        left_over = [job for job in waiting if job["task_name"] in ("stamp_head", "check_stamp")]
        expect(not left_over, left_over)
        complete = {row["seq"] for row in self._stamps("OPENTIMESTAMPS", "CONFIRMED")}
        open_proofs = [str(row["id"]) for row in of_calendar if row["seq"] not in complete]
        upgrades = [job for job in waiting if job["task_name"] == "upgrade_proof"]
        asking = [job["args"]["timestamp"] for job in upgrades]
        expect(sorted(open_proofs) == sorted(asking), (open_proofs, asking))
        return (
            f"{before_open} of {len(self._made_batches())} batches stamped before their open, "
            f"{len(open_proofs)} proofs wait for a block"
        )

    def inv_E_nothing_is_stamped_twice(self) -> str:
        """
        A service stores at most one timestamp for each slot of new batches or checkpoints.

        It asks for no timestamp that it does not store. A harm may cause one more of both: a job
        that died after its request is repeated, and one that was deleted is replaced.
        """
        harm = self.observed.harm.total()
        slots = len(self._stamp_slots())
        good = Counter(
            (line["provider"], line["function"])
            for line in self.requests
            if line["provider"] in (AUTHORITY, CALENDAR) and not line["fault"]
        )
        tokens = len(self._stamps("RFC3161"))
        promises = len(self._stamps("OPENTIMESTAMPS", "PENDING"))
        complete = len(self._stamps("OPENTIMESTAMPS", "CONFIRMED"))
        not_stored = [
            good[AUTHORITY, ""] - tokens,
            good[CALENDAR, "digest"] - promises,
            good[CALENDAR, UPGRADE] - complete,
        ]
        expect(sum(not_stored) <= harm, (not_stored, good))
        expect(max(tokens, promises) <= slots + harm, (tokens, promises, slots))
        return (
            f"{tokens} and {promises} stamps for {slots} slots; "
            f"{sum(not_stored)} good answers were not stored"
        )

    def _stamp_slots(self) -> set[tuple[str, int]]:
        """Return the slots of time in which batches or checkpoints were stored, by their kind."""
        slots = set()
        for entry in self.journal:
            seconds = int(entry["at"].timestamp())
            if entry["kind"] == "BATCH":
                slots.add(("BATCH", seconds // BATCH_SLOT))
            elif entry["kind"] == "CHECKPOINT":
                number = (seconds - CHECKPOINT_SLOT_END) // CHECKPOINT_SLOT
                slots.add(("CHECKPOINT", number))
        return slots

    # The series

    def inv_F_every_series_is_declared_once(self) -> str:
        """
        Every series has one declaration, and it comes before the first question of the series.

        The profile of each question is the declared one. No declaration of the record's settings
        repeats the one before.
        """
        declared: dict[str, Row] = {}
        settings: list[Row] = []
        asked: Counter[str] = Counter()
        for content in self.contents:
            if content["kind"] == "SERIES":
                name = content["series"]["name"]
                expect(name not in declared and not asked[name], content)
                declared[name] = content["series"]
            elif content["kind"] == "GENERATION":
                question = content["generation"]
                name = question["series"]
                asked[name] += 1
                expect(name in declared, question)
                profile = declared[name]["profile_sha256"]
                expect(question.get("profile_sha256", profile) == profile, question)
            elif content["kind"] == "SETTINGS":
                settings.append(content["settings"])
        repeated = [one for one, next_one in pairwise(settings) if one == next_one]
        expect(not repeated, repeated)
        first = min(row["run_date"] for row in self.batches)
        expect(len(declared) == len(storm_series.SERIES), declared.keys())
        for one in storm_series.SERIES:
            series = declared[one.name]
            stated = (series["kind"], series["holds_from"], series["profile"].get("model", ""))
            expect(stated == (one.kind, str(first), one.model), series)
            expect("retired" not in series, series)
        return f"{len(declared)} declarations of series, {len(settings)} of settings"

    def inv_G_no_key_is_anywhere(self) -> str:
        """No key of the service is in a table, in a log or in another file of the storm."""
        tables = self.fetch_rows(
            "SELECT format('%I.%I', table_schema, table_name) FROM information_schema.tables "
            "WHERE table_type = 'BASE TABLE' "
            "AND table_schema NOT IN ('pg_catalog', 'information_schema')"
        )
        for (table,) in tables:
            for key in self.observed.keys:
                found = self.fetch_rows(
                    f"SELECT 1 FROM {table} t WHERE strpos(t::text, '{key}') > 0"
                )
                expect(not found, f"{table} has a key")
        files = [path for path in self.folder.iterdir() if path.is_file()]
        for path in files:
            content = path.read_bytes()
            for key in self.observed.keys:
                expect(key.encode() not in content, f"{path.name} has a key")
        return f"{len(self.observed.keys)} keys, {len(tables)} tables and {len(files)} files"

    def stamps(self) -> Iterator[str]:
        """Yield lines with the number of stamps, and of requests for them that failed."""
        tokens = self._stamps("RFC3161")
        promises = self._stamps("OPENTIMESTAMPS", "PENDING")
        complete = self._stamps("OPENTIMESTAMPS", "CONFIRMED")
        requests = [line for line in self.requests if line["provider"] in (AUTHORITY, CALENDAR)]
        failed = sum(bool(line["fault"]) for line in requests)
        yield (
            f"{len(tokens)} stamps of the authority and {len(promises)} of the calendar were "
            f"stored, and {len(complete)} complete proofs; {failed} of {len(requests)} requests "
            "for them failed"
        )
        delays = []
        for _, entry in self._batch_entries():
            times = [row["received_at"] for row in tokens if row["seq"] >= entry["seq"]]
            if times:
                delays.append(min(times) - entry["at"])
        if delays:
            yield _describe_delays("batches", "stamped after", delays)

    def _stamps(self, kind: str, status: str | None = None) -> list[Row]:
        """Return the stored timestamps of a kind, in the order of their entries."""
        return [
            row
            for row in self.timestamps
            if row["kind"] == kind and status in (None, row["status"])
        ]

    def _batch_entries(self) -> list[tuple[Row, Row]]:
        """Return each batch with picks, and its entry in the journal."""
        entries = {entry["batch_id"]: entry for entry in self.journal if entry["kind"] == "BATCH"}
        return [(batch, entries[batch["id"]]) for batch in self._made_batches()]

    def _opens_at(self, batch: Row) -> datetime:
        return datetime.combine(self._session_from(batch["run_date"]), OPEN_TIME, NEW_YORK)

    def lateness(self) -> Iterator[str]:
        """Yield lines that say how late checkpoints and batches were, in simulated time."""
        checkpoints = [
            (row["skipped_at"] or row["taken_at"]) - at_nine(row["checkpoint_date"])
            for row in self.checkpoints
            if row["day"] and row["skip_reason"] != "MISSING_CLOSE"
        ]
        yield _describe_delays("checkpoints", "late by", checkpoints)
        yield _describe_delays("batches", "late by", _latenesses(self.batches))
        # Batches beside a series whose server failed, and batches of the other Mondays.
        broken = {monday for _, monday in self.broken}
        made = self._made_batches()
        beside = _latenesses([row for row in made if row["run_date"] in broken])
        others = _latenesses([row for row in made if row["run_date"] not in broken])
        if beside and others:
            yield _describe_delays("batches beside a series that failed", "late by", beside)
            yield _describe_delays("batches of the other Mondays", "late by", others)

    def _made_batches(self) -> list[Row]:
        return [row for row in self.batches if row["status"] != "failed"]

    def _checkpoints_of(self, batch: Row) -> list[Row]:
        return [row for row in self.checkpoints if row["batch_id"] == batch["id"]]

    def _picks_of(self, batch: Row) -> list[Row]:
        return [row for row in self.picks if row["batch_id"] == batch["id"]]

    def _close(self, reading_id: object, ticker: str, session: date) -> Decimal:
        reading = self.closes[reading_id]
        expect((reading["ticker"], reading["trading_day"]) == (ticker, session), reading)
        return reading["close"]  # type: ignore[no-any-return]

    def _split_factor(self, ticker: str, after: date, through: date) -> Decimal:
        """Return how many shares one share became; of a day's readings the newest counts."""
        in_force = {
            row["effective_date"]: row["factor"] for row in self.splits if row["ticker"] == ticker
        }
        product = Decimal(1)
        for day in sorted(in_force):
            if after < day <= through:
                product *= in_force[day]
        return product

    def _session_from(self, day: date) -> date:
        """Return the first session on or after `day`."""
        while not self.market.calendar.is_session(day):
            day += timedelta(days=1)
        return day


def _latenesses(batches: Sequence[Row]) -> list[timedelta]:
    return [row["created_at"] - at_nine(row["run_date"]) for row in batches]


def _describe_delays(subject: str, participle: str, delays: Sequence[timedelta]) -> str:
    """Return a line with the median, the ninth of ten, and the greatest of some delays."""
    seconds = sorted(one.total_seconds() for one in delays)
    # quantiles needs at least two values.
    ninth = seconds[0]
    if len(seconds) > 1:
        ninth = quantiles(seconds, n=10, method="inclusive")[-1]
    return (
        f"{len(seconds)} {subject} were {participle} {median(seconds):.1f} s (median), "
        f"{ninth:.0f} s (nine in ten), {seconds[-1]:.0f} s (all)"
    )


def _proves(stamp: Row, entry: Row, *, before: datetime) -> bool:
    """Return whether a timestamp proves that an entry was there before a moment."""
    latest = stamp["at"] + timedelta(seconds=float(stamp["accuracy_seconds"]))
    return stamp["seq"] >= entry["seq"] and latest < before  # type: ignore[no-any-return]


def _outcome(checkpoint: Row) -> str:
    if checkpoint["status"] == "skipped":
        return f"skipped, {checkpoint['skip_reason']}"
    return "computed"


def _key_of(row: Row) -> tuple[str, date]:
    """Return the series and the Monday of a batch or a question."""
    return row["series"], row["run_date"]


def read_broken_mondays(folder: Path) -> dict[tuple[str, date], str]:
    """
    Return the series and the Mondays on which its model's server fails all day, with the fault.

    They are the rules for one model in the simulators' fault script.
    """
    series_of = {one.model: one.name for one in storm_series.MODELS}
    broken = {}
    for rule in json.loads((folder / "faults.json").read_text()):
        if "function" in rule:
            since = datetime.fromisoformat(rule["since"]).astimezone(NEW_YORK)
            broken[series_of[rule["function"]], since.date()] = rule["fault"]
    return broken


def _ticker(request: Row) -> str:
    """Return the requested ticker in the record's spelling, with a dot."""
    return request["symbol"].replace("-", ".")  # type: ignore[no-any-return]


def _is_good_answer(request: Row) -> bool:
    """Return whether a request for prices was answered with something that the service stores."""
    if request["provider"] != "alphavantage":
        return False
    return request["fault"] in (None, "partial_bar", "late_bar", "late_split")


def _may_delay(kind: str) -> bool:
    """Return whether a kind of harm may delay a request after its grant."""
    return any(word in kind for word in DELAYING_HARM)


def _check_grants(granted: Sequence[tuple[datetime, str, str]], count: int, seconds: int) -> None:
    """Check that at most `count` grants are within any `seconds`."""
    for (before, *_), (after, *_) in zip(granted, granted[count:], strict=False):
        is_apart = (after - before).total_seconds() >= seconds
        expect(is_apart, (count, seconds, before, after))


def _gaps(received: Sequence[tuple[datetime, float]], count: int) -> list[tuple[float, float, str]]:
    """
    Return the seconds between each request and the one `count` later.

    The second value is the longer transit of the two requests, the third the later one's time. A
    range with a delayed request is left out: that request is one too many there, and the others are
    not the cause.
    """
    gaps = []
    for index in range(len(received) - count):
        within = received[index : index + count + 1]
        if any(transit > MAX_TRANSIT for _, transit in within):
            continue
        (before, first_transit), (after, second_transit) = within[0], within[-1]
        gaps.append(
            (
                (after - before).total_seconds(),
                max(first_transit, second_transit),
                str(after),
            )
        )
    return gaps


def at_nine(day: date) -> datetime:
    """Return nine o'clock in New York."""
    return datetime.combine(day, time(9), NEW_YORK)


def request_period(at: datetime, function: str) -> datetime | date:
    """
    Return the beginning of the period within which an answer given at `at` serves all jobs.

    It is the last of the day's request times, and for splits, dividends and rates the day.
    """
    local = at.astimezone(NEW_YORK)
    if function in ("SPLITS", "DIVIDENDS", "TREASURY_YIELD"):
        return local.date()
    # Before nine, the last request time is yesterday's.
    yesterday = local.date() - timedelta(days=1)
    moments = _request_times_on(yesterday) + _request_times_on(local.date())
    return max(moment for moment in moments if moment <= local)


def _request_times_on(day: date) -> list[datetime]:
    return [datetime.combine(day, clock_time, NEW_YORK) for clock_time in REQUEST_TIMES]


def expect(holds: object, details: object) -> None:
    """Raise InvariantBroken with `details` unless `holds` is true."""
    if not holds:
        raise InvariantBroken(str(details)[:2000])


def count_faults(requests: Sequence[Row]) -> Counter[str]:
    """Return how often each provider had each fault."""
    return Counter(f"{line['provider']} {line['fault']}" for line in requests if line["fault"])

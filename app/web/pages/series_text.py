"""
The words and values that pages show for the series of a record.

A series, a profile or a batch is a mapping, as the API returns it. With one series, pages do not
name it: they read as if there were no others.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

from msgspec import Struct

from app.domain import yearly_check
from app.domain.calendar import Calendar
from app.domain.model import SERIES
from app.domain.text import join_words
from app.web.charts import record_charts
from app.web.charts.record_charts import IntervalRow
from app.web.formatting import long_date, short_date
from app.web.pages import batch_text
from app.web.routes import SERIES as SERIES_PAGE

Node = Mapping[str, Any]

# The findings of checks, in the order in which the leaderboard shows their series.
_FINDING_ORDER = {"BETTER": 0, "UNDECIDED": 1, None: 1, "WORSE": 2}
# The most letters of a label in a chart: a phone has no room for more.
_CHART_LETTERS = 40
# What a profile decides, with the words for it on the page of a series. Profiles also have the
# hashes of the prompts: a prompt that changes gets another version.
_PROFILE_WORDS = {
    "label": "label",
    "model": "model",
    "baseUrl": "address of the server",
    "responseFormat": "form of the answer",
    "temperature": "temperature",
    "reasoningEffort": "reasoning effort",
    "maxTokens": "most tokens of an answer",
    "tokenLimitAs": "name of the token limit",
    "extraBody": "further members of a request",
    "timeoutSeconds": "longest time for an answer, in seconds",
    "promptVersion": "version of the prompt",
    "drawVersion": "version of the draw",
    "universeSize": "tickers to draw from",
    "universeSource": "source of the tickers",
}


class KnownSeries(Struct, frozen=True):
    """All series of a record, sorted by their technical names, as the API returns them."""

    rows: Sequence[Node]

    @property
    def by_label(self) -> list[Node]:
        """Return the series in the order in which pages list them."""
        return sort_by_label(self.rows)

    @property
    def names(self) -> list[str]:
        """Return the names of the series."""
        return [row["name"] for row in self.rows]

    @property
    def are_several(self) -> bool:
        """Return whether pages must name the series."""
        return len(self.rows) > 1

    @property
    def default(self) -> str:
        """
        Return the name of the series whose addresses do not contain a name.

        It is `main`, or the first one of a record without this series.
        """
        if SERIES in self.names or not self.names:
            return SERIES
        return self.names[0]

    def named(self, name: str) -> Node | None:
        """Return the series with a name; None if the record does not have it."""
        return next((row for row in self.rows if row["name"] == name), None)

    @property
    def controls(self) -> list[Node]:
        """Return the controls."""
        return [row for row in self.rows if row["kind"] == "RANDOM"]

    def is_control(self, name: str) -> bool:
        """Return whether the picks of a series are drawn at random."""
        series = self.named(name)
        return series is not None and series["kind"] == "RANDOM"

    def counterpart(self, name: str) -> Node | None:
        """
        Return the series with which the page of a model compares its picks: the first control.

        None if there is no control, or for a control itself. So the page shows one comparison,
        which was chosen before any result was known.
        """
        if self.is_control(name):
            return None
        return next(iter(self.controls), None)


def sort_by_label(all_series: Iterable[Node]) -> list[Node]:
    """
    Return the series sorted by their labels, small letters or not.

    Every page lists them in this order, because readers do not see the technical names.
    """
    return sorted(all_series, key=_label_key)


def _label_key(series: Node) -> str:
    label: str = series["label"]
    return label.casefold()


class SharedPick(Struct, frozen=True):
    """A share that several series picked on one Monday, with the action of each of them."""

    ticker: str
    calls: Sequence[tuple[Node, str]]

    @property
    def words(self) -> str:
        """Return what the series said, as in "Claude (SELL) and Main (BUY)"."""
        return join_words([f"{series['label']} ({action})" for series, action in self.calls])

    @property
    def is_disputed(self) -> bool:
        """Return whether the series chose different directions."""
        return len({action for _, action in self.calls}) > 1

    def others(self, name: str) -> str:
        """Return what the series other than `name` said."""
        calls = [(series, action) for series, action in self.calls if series["name"] != name]
        return join_words([f"{series['label']} ({action})" for series, action in calls])


class NewestWeek(Struct, frozen=True):
    """The newest Monday of a record: the series that have a batch for it, and the others."""

    run_date: str | None
    present: Sequence[Node]
    absent: Sequence[Node]
    shared: Mapping[str, SharedPick]


def newest_week(all_series: Sequence[Node]) -> NewestWeek:
    """
    Return the newest Monday of these series, in the order of their labels.

    `run_date` is None if none of them has a batch.
    """
    run_dates = [row["latestBatch"]["runDate"] for row in all_series if row["latestBatch"]]
    newest = max(run_dates, default=None)
    present, absent = [], []
    for row in sort_by_label(all_series):
        if row["latestBatch"] and row["latestBatch"]["runDate"] == newest:
            present.append(row)
        else:
            absent.append(row)
    return NewestWeek(
        run_date=newest,
        present=present,
        absent=absent,
        shared=_shared_picks(present),
    )


def _shared_picks(all_series: Sequence[Node]) -> dict[str, SharedPick]:
    """Return the shares that more than one series picked, by their ticker."""
    calls: dict[str, list[tuple[Node, str]]] = {}
    for row in all_series:
        for pick in row["latestBatch"]["picks"]:
            calls.setdefault(pick["ticker"], []).append((row, pick["action"]))
    return {
        ticker: SharedPick(ticker, calls[ticker])
        for ticker in sorted(calls)
        if len(calls[ticker]) > 1
    }


def absence_text(series: Node) -> str:
    """Return why a series is not among those of the newest Monday."""
    if series["retiredAt"]:
        return "retired"
    if series["latestBatch"]:
        return f"no picks since {short_date(series['latestBatch']['runDate'])}"
    if series["profiles"]:
        return f"begins on {long_date(series['profiles'][-1]['holdsFrom'])}"
    return "no picks yet"


def next_figures_at(week: NewestWeek, sessions: Calendar) -> datetime | None:
    """Return when the next figures of a week's batches are due; None if there will be none."""
    times = [batch_text.next_figures_at(dict(row["latestBatch"]), sessions) for row in week.present]
    return min((time for time in times if time), default=None)


def week_news(week: NewestWeek) -> str:
    """Return a line for each series, for the message that an open page shows after a change."""
    lines = []
    for row in week.present:
        is_control = row["kind"] == "RANDOM"
        message = batch_text.update_message(row["latestBatch"], is_control=is_control)
        lines.append(f"{row['label']}: {message}")
    return "\n".join(lines)


def series_url(name: str) -> str:
    """Return the path of the page of a series."""
    return SERIES_PAGE.url(series=name)


def has_tools(series: Node) -> bool:
    """Return whether a model has tools or a search, as its newest profile says."""
    return bool(series["profiles"] and series["profiles"][-1]["tools"])


def is_never_tested(series: Node | None) -> bool:
    """
    Return whether no yearly check tests a series: it is a control, or a model with tools.

    None is the series of an empty record.
    """
    return series is not None and (series["kind"] == "RANDOM" or has_tools(series))


def any_finding(all_series: Sequence[Node]) -> bool:
    """Return whether a yearly check found that any of these series differs from luck."""
    findings = [row["trackRecord"]["verdict"]["finding"] for row in all_series]
    return "BETTER" in findings or "WORSE" in findings


def leaderboard(all_series: Sequence[Node]) -> list[Node]:
    """
    Return the series in the order of the leaderboard.

    Only a finding of a yearly check changes the order, which is otherwise that of the labels,
    because readers see these: an order by results would show luck as if it were skill.
    """

    def place(row: Node) -> tuple[int, str]:
        finding = row["trackRecord"]["verdict"]["finding"]
        return _FINDING_ORDER[finding], _label_key(row)

    return sorted(all_series, key=place)


def check_lines(series: Node) -> list[str]:
    """
    Return what the leaderboard says about a series under the yearly checks.

    It is the finding with the date of its check. If the newest check did not test the series, the
    reason follows. A control, and a model with tools, are marked before the first check.
    """
    verdict = series["trackRecord"]["verdict"]
    looks = verdict["looks"]
    lines = []
    if verdict["finding"]:
        lines.append(batch_text.FINDING_HEADLINES[verdict["finding"]])
        if verdict["foundOn"]:
            lines.append(f"Found by the check of {_short_date(verdict['foundOn'])}.")
    if looks and looks[-1]["untestedReason"]:
        newest = looks[-1]
        reason = batch_text.UNTESTED_REASONS[newest["untestedReason"]]
        lines.append(f"Shown, not tested on {_short_date(newest['on'])}: {reason}.")
    if lines:
        return lines
    if series["kind"] == "RANDOM":
        return [f"Shown, not tested: {batch_text.UNTESTED_REASONS['CONTROL']}."]
    if has_tools(series):
        return [f"Shown, not tested: {batch_text.UNTESTED_REASONS['TOOLS']}."]
    if series["trackRecord"]["batches"]["total"]:
        return [batch_text.TOO_EARLY_HEADLINE]
    return ["–"]


def _short_date(day: str) -> str:
    return f"{short_date(day)} {day[:4]}"


def interval_rows(all_series: Sequence[Node]) -> list[IntervalRow]:
    """Return a row of the interval chart for each series whose interval is known."""
    rows: list[IntervalRow] = []
    for row in all_series:
        weekly = row["trackRecord"]["weeklyExcess"]
        name = row["label"]
        if len(name) > _CHART_LETTERS:
            name = f"{name[: _CHART_LETTERS - 1]}…"
        if row["kind"] == "RANDOM":
            name = f"{name} (control)"
        rows += record_charts.interval_rows(name, weekly["meanPct"], weekly["meanInterval"])
    return rows


class ProfileChange(Struct, frozen=True):
    """A change of a series: from which Monday it holds, its journal entry, and what changed."""

    holds_from: str
    seq: str
    words: Sequence[str]
    is_model: bool


def profile_changes(profiles: Sequence[Node]) -> list[ProfileChange]:
    """Return what each `SERIES` entry after the first one changed, oldest first."""
    changes = []
    for number in range(1, len(profiles)):
        before, after = profiles[number - 1], profiles[number]
        changes.append(
            ProfileChange(
                holds_from=after["holdsFrom"],
                seq=after["seq"],
                words=_changed_words(before, after),
                is_model=before["model"] != after["model"],
            )
        )
    return changes


def _changed_words(before: Node, after: Node) -> list[str]:
    if after["retired"] and not before["retired"]:
        return ["retired: it makes no more picks, and its record stays"]
    words = []
    if before["retired"] and not after["retired"]:
        words.append("no longer retired")
    for name, meaning in _PROFILE_WORDS.items():
        if before[name] != after[name]:
            words.append(f"{meaning}: {_value(after[name])} instead of {_value(before[name])}")
    if before["tools"] != after["tools"]:
        words.append("with tools" if after["tools"] else "without tools")
    return words or ["another text of the profile"]


def _value(value: object) -> str:
    if value is None:
        return "none"
    return str(value) or "the usual one"


def model_changes(profiles: Sequence[Node]) -> dict[str, str]:
    """Return the models that a series changed to, by the first Monday of each."""
    changes = {}
    for number in range(1, len(profiles)):
        before, after = profiles[number - 1], profiles[number]
        if before["model"] != after["model"]:
            changes[str(after["holdsFrom"])] = str(after["model"])
    return changes


def late_start(series: Node, all_series: Sequence[Node]) -> str:
    """
    Return a sentence for a series that joined after the record's first Monday; empty for others.

    The dates of the checks belong to the record, so the first check that can test a late series may
    be one with a small share of the risk.
    """
    first_mondays = [row["firstRunDate"] for row in all_series if row["firstRunDate"]]
    joined = series["firstRunDate"]
    if not joined or joined == min(first_mondays):
        return ""
    record_began = date.fromisoformat(min(first_mondays))
    weeks_late = (date.fromisoformat(joined) - record_began).days // 7
    # From its first Monday to the date of check k, the series has 52 k weeks less those before.
    weeks_needed = weeks_late + yearly_check.MIN_WEEKS
    number = math.ceil(weeks_needed / yearly_check.WEEKS_BETWEEN_CHECKS)
    on = yearly_check.check_date(record_began, number)
    share = f"{100 * yearly_check.risk_of_check(number):.2f}"
    return (
        f"It joined on {long_date(joined)}, {weeks_late} "
        f"{'week' if weeks_late == 1 else 'weeks'} after the record’s first Monday. The dates of "
        f"the yearly checks belong to the record, and a check needs {yearly_check.MIN_WEEKS} "
        f"weeks. So the first check that can test it is check {number}, on {long_date(on)}, whose "
        f"share of the risk is {share} %."
    )

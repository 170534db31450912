"""
The rules of declarations: `genesis`, `settings`, `series` and `profile`.

They say where a record comes from, with which settings its figures are made, and with which profile
each question is asked (docs/journal.md#declarations). `check` adds the declarations of an entry to
the state, and the rules that are checked next use them.
"""

import re
from datetime import datetime, timedelta

from app.domain.calendar import new_york_date
from app.domain.control import REQUESTED_MODEL, UNIVERSE_NOTICE
from app.domain.declarations import (
    AnyDeclaration,
    ControlDeclaration,
    ControlProfile,
    Genesis,
    ModelDeclaration,
    Origin,
    Profile,
    RecordSettings,
    declared_kind,
    differing_fields,
    sha256_of,
)
from app.domain.model import (
    SERIES_PATTERN,
    SHA256_PATTERN,
    TICKER_PATTERN,
    Batch,
    Generation,
    JournalKind,
)
from app.domain.verification.discrepancies import Rule, discrepancy
from app.domain.verification.entries import ParsedEntry
from app.domain.verification.rules import declared_calendar
from app.domain.verification.state import DeclaredSeries, JournalState, locate

_RECORD_ID = r"[0-9a-f]{32}"

_MONDAY = 0

# The kinds of entries that only a sealed record has, or one that is being sealed.
_SEALED_KINDS = (JournalKind.SETTINGS, JournalKind.SERIES, JournalKind.READINGS)


def check(entry: ParsedEntry, state: JournalState) -> None:
    """Raise Discrepancy for a wrong declaration; otherwise, add the declaration to the state."""
    place = f"Entry {entry.seq} of the journal"
    _check_genesis(place, entry, state)
    if entry.settings is not None:
        _check_settings(place, entry, settings=entry.settings, state=state)
        state.record_calendar.add(entry.settings)
        state.benchmarks.add(entry.settings.benchmark)
        for root in entry.settings.timestamp_roots:
            state.timestamp_roots.setdefault(root, entry.seq)
    if entry.genesis is not None:
        state.genesis = entry.genesis
        if entry.genesis.late:
            state.series_before_seal = frozenset(state.series)
        else:
            state.sealed_since = entry.seq
    if entry.is_sealing:
        state.sealed_since = entry.seq
    if entry.series is not None:
        _check_series(place, entry, series=entry.series, state=state)
        declared = DeclaredSeries(entry.series, hash=entry.hash, at=entry.at)
        state.declared_series[entry.series.name].append(declared)
    _check_benchmark(entry, state)
    _check_series_of_batches(entry, state)


def check_questions(entry: ParsedEntry, state: JournalState) -> None:
    """Raise Discrepancy for a question that is not asked with the declared profile."""
    for mention in entry.mentions_of(Generation):
        question = mention.row
        assert isinstance(question, Generation)
        if mention.before is not None:
            continue
        problem = _profile_problem(question, state, is_adopted=entry.is_adoption)
        if problem is not None:
            raise discrepancy(Rule.PROFILE, f"{locate(entry, state, question)}: {problem}.")
        if not state.is_sealed:
            continue
        problem = declared_calendar.question_problem(question, state)
        if problem is not None:
            raise discrepancy(Rule.SETTINGS, f"{locate(entry, state, question)}: {problem}.")


def check_end_of_chain(state: JournalState) -> None:
    """Raise Discrepancy if the journal ends before a late GENESIS has sealed the record."""
    if state.is_being_sealed:
        raise discrepancy(
            Rule.GENESIS,
            "The journal has a late GENESIS entry, but it ends before the SETTINGS entry that "
            "seals the record. Its tail was cut off.",
        )


# Genesis


def _check_genesis(place: str, entry: ParsedEntry, state: JournalState) -> None:
    problem = _genesis_problem(entry, state)
    if problem is not None:
        raise discrepancy(Rule.GENESIS, f"{place}: {problem}.")


def _genesis_problem(entry: ParsedEntry, state: JournalState) -> str | None:
    if entry.genesis is not None:
        return _genesis_entry_problem(entry.seq, entry.genesis, state)
    if entry.kind in _SEALED_KINDS and state.genesis is None:
        return f"it is a {entry.kind} entry, but no GENESIS entry comes before it"
    if state.is_being_sealed:
        if entry.is_adoption or entry.is_sealing:
            return None
        return (
            f"it is a {entry.kind} entry, but after a late GENESIS come only READINGS entries with "
            "adopted, and then a SETTINGS entry with sealed"
        )
    if entry.is_adoption or entry.is_sealing:
        marker = "adopted" if entry.is_adoption else "sealed"
        return f"it has the member {marker}, but the record is not being sealed here"
    return None


def _genesis_entry_problem(seq: int, genesis: Genesis, state: JournalState) -> str | None:
    if state.genesis is not None:
        return "it is a GENESIS entry, but the journal already has one"
    if not re.fullmatch(_RECORD_ID, genesis.record_id):
        return f"record_id is {genesis.record_id!r}, but must be 32 lower-case hexadecimal digits"
    is_first = seq == 1
    if genesis.late and is_first:
        return "late is true, but no entry comes before it"
    if not genesis.late and not is_first:
        return f"late is false, but {seq - 1} entries come before it"
    if genesis.late and genesis.origin is Origin.LIVE:
        return "origin is LIVE, but the record already had entries when it was sealed"
    if not genesis.late and genesis.origin is Origin.UNKNOWN:
        return "origin is UNKNOWN, which only a late GENESIS entry has"
    return None


# Settings


def _check_settings(
    place: str, entry: ParsedEntry, *, settings: RecordSettings, state: JournalState
) -> None:
    problem = _form_problem(settings)
    newest = state.record_calendar.newest
    if problem is None and newest is not None:
        problem = _change_problem(settings, newest, is_change=_is_change(entry))
    if problem is None and entry.genesis is not None:
        problem = declared_calendar.genesis_problem(entry, settings, state)
    if problem is not None:
        raise discrepancy(Rule.SETTINGS, f"{place}: its settings: {problem}.")


def _is_change(entry: ParsedEntry) -> bool:
    """Return whether the settings of an entry must differ from those before."""
    return entry.kind is JournalKind.SETTINGS and not entry.is_sealing


def _form_problem(settings: RecordSettings) -> str | None:
    """Return what is wrong with settings by themselves; None if nothing is."""
    for name in ("version", "price_source"):
        if not getattr(settings, name).strip():
            return f"{name} is empty"
    if settings.price_source.startswith(" "):
        return "price_source begins with a space"
    if not re.fullmatch(TICKER_PATTERN, settings.benchmark):
        return f"benchmark is {settings.benchmark!r}, which is no ticker"
    for name in ("days_without_session", "closed_days", "timestamp_roots"):
        values = getattr(settings, name)
        if list(values) != sorted(set(values)):
            return f"{name} is not in ascending order, or has a value twice"
    problem = _further_problem(settings)
    if problem is not None:
        return problem
    for root in settings.timestamp_roots:
        if not re.fullmatch(SHA256_PATTERN, root):
            return (
                f"timestamp_roots has {root[:80]!r}, which is not 64 lower-case hexadecimal digits"
            )
    return declared_calendar.form_problem(settings)


def _further_problem(settings: RecordSettings) -> str | None:
    """Return what is wrong with the further benchmarks of settings; None if nothing is."""
    further = settings.further_benchmarks
    if further is None:
        return None
    if not further:
        return "further_benchmarks is empty, but must be absent then"
    for ticker in further:
        if not re.fullmatch(TICKER_PATTERN, ticker):
            return f"further_benchmarks has {ticker[:80]!r}, which is no ticker"
    if len({settings.benchmark, *further}) <= len(further):
        return "further_benchmarks has a ticker twice, or the benchmark"
    return None


def _change_problem(
    settings: RecordSettings, newest: RecordSettings, *, is_change: bool
) -> str | None:
    """Return what is wrong with settings that follow others; None if nothing is."""
    if settings.calendar_from != newest.calendar_from:
        return (
            f"calendar_from is {settings.calendar_from}, but was {newest.calendar_from}, and it "
            "never changes"
        )
    if settings.calendar_to < newest.calendar_to:
        return (
            f"calendar_to is {settings.calendar_to}, but was {newest.calendar_to}, and it never "
            "moves back"
        )
    if is_change and not differing_fields(newest, settings):
        return "they are equal to the newest settings before"
    return None


def _check_benchmark(entry: ParsedEntry, state: JournalState) -> None:
    """Raise Discrepancy for a new batch with another benchmark than the settings have."""
    settings = state.record_calendar.newest
    if entry.kind not in (JournalKind.BATCH, JournalKind.FAILURE) or not state.is_sealed:
        return
    for batch in entry.rows(Batch):
        if settings is not None and batch.benchmark_symbol != settings.benchmark:
            raise discrepancy(
                Rule.SETTINGS,
                f"{locate(entry, state, batch)}: benchmark_symbol is {batch.benchmark_symbol}, but "
                f"the benchmark of the newest settings is {settings.benchmark}.",
            )


# Series


def _check_series(
    place: str, entry: ParsedEntry, *, series: AnyDeclaration, state: JournalState
) -> None:
    problem = _series_problem(series, state.newest_series(series.name), at=entry.at)
    if problem is not None:
        raise discrepancy(Rule.SERIES, f"{place}: its series: {problem}.")


def _series_problem(
    series: AnyDeclaration, former: AnyDeclaration | None, *, at: datetime
) -> str | None:
    if not re.fullmatch(SERIES_PATTERN, series.name):
        return f"name is {series.name[:80]!r}, which is no name of a series"
    if not series.label.strip():
        return "label is empty"
    if series.retired is False:
        return "retired is false, but must be true or absent"
    if isinstance(series, ControlDeclaration):
        problem = _control_profile_problem(series.profile)
    else:
        problem = _model_profile_problem(series.profile)
    if problem is not None:
        return problem
    if series.profile_sha256 != series.profile.sha256:
        return (
            f"profile_sha256 is {series.profile_sha256[:80]}, but its profile gives "
            f"{series.profile.sha256}"
        )
    if series.holds_from.weekday() != _MONDAY:
        return f"holds_from is a {series.holds_from:%A}, but must be a Monday"
    if former is None:
        if series.retired:
            return "it is retired, but was not declared before"
        return None
    return _succession_problem(series, former, at=at)


def _model_profile_problem(profile: Profile) -> str | None:
    for name in ("system_prompt_sha256", "user_prompt_sha256"):
        text = getattr(profile, name)
        if not re.fullmatch(SHA256_PATTERN, text):
            return f"{name} is {text[:80]!r}, but must be 64 lower-case hexadecimal digits"
    if profile.tools is False:
        return "tools is false, but must be true or absent"
    for name in ("model", "response_format", "timeout_seconds", "prompt_version", "schema"):
        if not getattr(profile, name).strip():
            return f"{name} of its profile is empty"
    return None


def _control_profile_problem(profile: ControlProfile) -> str | None:
    for name in ("draw_version", "universe_source"):
        if not getattr(profile, name).strip():
            return f"{name} of its profile is empty"
    if list(profile.universe) != sorted(set(profile.universe)):
        return "universe is not in ascending order, or has a ticker twice"
    for ticker in profile.universe:
        if not re.fullmatch(TICKER_PATTERN, ticker):
            return f"universe has {ticker[:80]!r}, which is no ticker"
    return None


def _succession_problem(
    series: AnyDeclaration, former: AnyDeclaration, *, at: datetime
) -> str | None:
    """Return what is wrong with a declaration that follows another one; None if nothing is."""
    if declared_kind(series) is not declared_kind(former):
        return f"kind is {declared_kind(series)}, but was {declared_kind(former)}"
    if series.holds_from < former.holds_from:
        return f"holds_from is {series.holds_from}, before {former.holds_from} of the entry before"
    # A series changes when its next question is asked. Otherwise an operator could retire it
    # afterwards, from a Monday that it has missed.
    declared_on = new_york_date(at)
    if series.holds_from < declared_on - timedelta(days=declared_on.weekday()):
        return f"holds_from is {series.holds_from}, before the week of its entry, {declared_on}"
    if series.terms == former.terms:
        return "it is equal to the newest declaration of that series"
    is_same_profile = series.profile_sha256 == former.profile_sha256
    if series.retired and not is_same_profile:
        return "it is retired, but its profile differs from that of the entry before"
    if isinstance(series, ModelDeclaration) or is_same_profile:
        return None
    notice_ends = declared_on + UNIVERSE_NOTICE
    if series.holds_from < notice_ends:
        return (
            f"holds_from is {series.holds_from}, but a new profile of a control is declared "
            f"{UNIVERSE_NOTICE.days} days before it holds, so not before {notice_ends}"
        )
    return None


def _check_series_of_batches(entry: ParsedEntry, state: JournalState) -> None:
    """Raise Discrepancy for a new batch of a series that is not declared."""
    if entry.kind not in (JournalKind.BATCH, JournalKind.FAILURE) or not state.is_sealed:
        return
    for batch in entry.rows(Batch):
        is_declared = batch.series in state.declared_series
        # A record that was sealed late declares its series before the next question. A Monday that
        # was missed before that has none.
        is_older = state.series_before_seal is not None and batch.series in state.series_before_seal
        if not is_declared and not is_older:
            raise discrepancy(
                Rule.SERIES,
                f"{locate(entry, state, batch)}: no SERIES entry declares its series, "
                f"{batch.series}.",
            )


def _profile_problem(question: Generation, state: JournalState, *, is_adopted: bool) -> str | None:
    """Return why a question cannot have its profile; None if it can."""
    if is_adopted or not state.is_sealed:
        if question.profile_sha256 is None:
            return None
        return "it has a profile_sha256, but it was asked before the record was sealed"
    newest = state.newest_series(question.series)
    if newest is None:
        return f"no SERIES entry declares its series, {question.series}"
    declared = newest
    if isinstance(newest, ControlDeclaration):
        # A new universe is declared weeks before it holds.
        declared = state.series_in_force(question.series, question.run_date) or newest
    if question.profile_sha256 is None:
        return "it has no profile_sha256"
    if question.profile_sha256 != declared.profile_sha256:
        return (
            f"profile_sha256 is {question.profile_sha256[:80]}, but that of the SERIES entry of "
            f"{question.series} that is in force is {declared.profile_sha256}"
        )
    if question.run_date < declared.holds_from:
        return f"its profile holds from {declared.holds_from} on"
    if declared.retired:
        return f"its series was retired from {declared.holds_from} on"
    if isinstance(declared, ControlDeclaration):
        return _draw_problem(question, declared.profile)
    return _request_problem(question, declared.profile)


def _draw_problem(question: Generation, profile: ControlProfile) -> str | None:
    """Return why a question of a control does not fit its profile; None if it fits."""
    if question.requested_model != REQUESTED_MODEL:
        return f"requested_model is {question.requested_model}, but must be {REQUESTED_MODEL}"
    version = f"draw-{profile.draw_version}"
    if question.prompt_version != version:
        return f"prompt_version is {question.prompt_version}, but its profile gives {version}"
    if question.system_prompt or question.user_prompt:
        return "it has a prompt, which no question of a control has"
    return None


def _request_problem(question: Generation, profile: Profile) -> str | None:
    """Return why a question to a model does not fit its profile; None if it fits."""
    if question.requested_model != profile.model:
        return f"requested_model is {question.requested_model}, but its profile has {profile.model}"
    if question.prompt_version != profile.prompt_version:
        return (
            f"prompt_version is {question.prompt_version}, but its profile has "
            f"{profile.prompt_version}"
        )
    if question.reasoning_effort != profile.reasoning_effort:
        return (
            f"reasoning_effort is {question.reasoning_effort}, but its profile has "
            f"{profile.reasoning_effort}"
        )
    if sha256_of(question.system_prompt) != profile.system_prompt_sha256:
        return "the SHA-256 of its system_prompt is not that of its profile"
    return None

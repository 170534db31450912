"""The rules of picks: docs/journal.md, "The rules", sixth table."""

from independent_verifier.known import Entry, Known, TrackedShare, day_of
from independent_verifier.refused import require
from independent_verifier.sessions import new_york_day


def check_ending(entry: Entry, known: Known) -> None:
    """Check the rule `ending`."""
    if entry.kind != "PICK_ENDED":
        return
    pick, ending = entry.content["pick"], entry.content["ending"]
    was = entry.before["picks", pick["id"]]
    ends = was["ended"] == "false" and pick["ended"] == "true"
    require(ends, "ending", f"{entry.where}: the pick does not end")
    require(ending["pick_id"] == pick["id"], "ending", f"{entry.where}: of another pick")
    last = ending["last_session"]
    session = known.calendar.may_be_session(day_of(last))
    require(session, "ending", f"{entry.where}: {last} is no session")
    early = last < known.batch(pick["batch_id"])["trading_day"]
    require(not early, "ending", f"{entry.where}: {last} lies before the baseline")
    over = day_of(last) < new_york_day(entry.at)
    require(over, "ending", f"{entry.where}: {last} is not over")


def check_renaming(entry: Entry, known: Known, share: TrackedShare | None) -> None:
    """Check the rule `renaming`. `share` is the pick's share before the entry."""
    if entry.kind != "PICK_RENAMED":
        return
    pick = entry.content["pick"]
    was = entry.before["picks", pick["id"]]
    fits = entry.content["before"] == was["ticker"] != pick["ticker"]
    require(fits, "renaming", f"{entry.where}: from {was['ticker']} to {pick['ticker']}")
    batch = known.batch(pick["batch_id"])
    others = {known.pick(id)["ticker"] for id in known.picks_of[batch["id"]] if id != pick["id"]}
    taken = pick["ticker"] in others | {batch["benchmark_symbol"]}
    require(not taken, "renaming", f"{entry.where}: {pick['ticker']} is taken")
    if renaming := entry.content.get("renaming"):
        require(renaming["pick_id"] == pick["id"], "renaming", f"{entry.where}: of another pick")
        first = renaming["from_session"]
        session = known.calendar.may_be_session(day_of(first))
        require(session, "renaming", f"{entry.where}: {first} is no session")
        late = first > batch["trading_day"] and first > share.spans[-1].first
        require(late, "renaming", f"{entry.where}: {first} lies before the baseline or a renaming")
        early = day_of(first) <= new_york_day(entry.at)
        require(early, "renaming", f"{entry.where}: {first} is still to come")
        ending = known.endings.get(pick["id"])
        traded = ending is None or first <= ending["last_session"]
        require(traded, "renaming", f"{entry.where}: {first} is after the end")


def check_forced(entry: Entry, known: Known) -> None:
    """Check the rule `forced-rename`."""
    for key, metric in entry.of("pick_checkpoint_metrics"):
        was = entry.before.get(key)
        if was is not None and was.get("close_id") == metric.get("close_id"):
            continue
        session = known.checkpoint(metric["checkpoint_id"])["trading_day"]
        spans = known.shares[metric["pick_id"]].spans
        forced = any(span.forced and span.first <= session for span in spans)
        marked = metric["unusual_move"] == "true"
        require(marked or not forced, "forced-rename", f"{entry.where}: {metric['id']}")

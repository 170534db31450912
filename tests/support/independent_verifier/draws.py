"""The rule `draws`: docs/record.md, "The draws of a control"."""

import hashlib
from collections.abc import Iterator

from independent_verifier.answers import BrokenRuleError, drawn_picks, names
from independent_verifier.api import Row
from independent_verifier.forms import canonical
from independent_verifier.known import Entry, Known
from independent_verifier.refused import require


def check_draws(entry: Entry, known: Known) -> None:
    """Check the answers of controls, at their first mention."""
    for key, row in entry.of("generations"):
        series = known.declared.series_in_force(row["series"], row["run_date"])
        is_new = "answer" in row and "answer" not in entry.before.get(key, {})
        if not is_new or not series or series["kind"] != "random":
            continue
        monday = known.questions[row["series"], row["run_date"]]
        earlier = [known.newest[other] for other in monday[: monday.index(key)]]
        expected = drawn(
            first_hash=known.declared.series[row["series"]][0][1],
            run_date=row["run_date"],
            universe=series["profile"]["universe"],
            benchmark=known.declared.settings[-1]["benchmark"],
            refused=refused(earlier),
        )
        require(row["answer"] == expected, "draws", f"{entry.where}: the draws are {expected}")


def refused(questions: list[Row]) -> set[str]:
    """Return the picks that the refusals of earlier questions name."""
    found: set[str] = set()
    for row in questions:
        try:
            picks = drawn_picks(row.get("answer", ""), None)
        except BrokenRuleError:
            continue
        tickers = {pick["ticker"] for pick in picks}
        found |= {ticker for ticker in tickers if names(row.get("refusal", ""), ticker)}
    return found


def numbers(seed: bytes) -> Iterator[int]:
    """Yield the numbers of the stream: four bytes each, the highest byte first."""
    length = 0
    while True:
        length += 4096
        for start in range(length - 4096, length, 4):
            yield int.from_bytes(hashlib.shake_256(seed).digest(length)[start : start + 4], "big")


def below(stream: Iterator[int], bound: int) -> int:
    """Return the next number below a bound, without those that would favour some."""
    for number in stream:
        if number < 2**32 // bound * bound:
            return number % bound
    raise AssertionError


def drawn(
    *, first_hash: str, run_date: str, universe: list[str], benchmark: str, refused: set[str]
) -> str | None:
    """Return the answer that the draws of a Monday give; None without three possible picks."""
    if len(set(universe) - {benchmark} - refused) < 3:
        return None
    seed = hashlib.sha256(f"{first_hash}\n{run_date}".encode()).hexdigest()
    stream = numbers(bytes.fromhex(seed))
    draws: list[dict] = []
    while sum("skipped" not in draw for draw in draws) < 3:
        ticker = universe[below(stream, len(universe))]
        draw = {"ticker": ticker, "action": ("BUY", "SELL")[below(stream, 2)]}
        if any(other["ticker"] == ticker for other in draws):
            draw["skipped"] = "REPEATED"
        elif ticker == benchmark:
            draw["skipped"] = "BENCHMARK"
        elif ticker in refused:
            draw["skipped"] = "REFUSED"
        draws.append(draw)
    listed = "".join(f"{ticker}\n" for ticker in universe)
    universe_sha256 = hashlib.sha256(listed.encode()).hexdigest()
    return canonical({"draws": draws, "seed": seed, "universe_sha256": universe_sha256})

"""The draws of a control can be computed again from docs/record.md alone."""

import hashlib
import json
import re
from datetime import date

from tracked import HOUSE

from app.domain import control
from app.domain.journal import canonical_json

DOCUMENT = (HOUSE / "docs" / "record.md").read_text()
SECTION = DOCUMENT.split("\n## The draws of a control\n")[1].split("\n## ")[0]
TEXT = " ".join(SECTION.split())
ROWS = re.findall(
    r"^\| (\d+), (\d+) \| (\d), (\d) \| ([A-Z.]+) (BUY|SELL) \| (.+) \|$", SECTION, re.MULTILINE
)
(ANSWER,) = re.findall(r"^```json\n(.*)\n```$", SECTION, re.MULTILINE)

UNIVERSE = re.search(r"the universe is `([A-Z. ]+)`", TEXT)[1].split()
BENCHMARK, REFUSED = re.search(r"the benchmark is (\w+), and (\w+) was refused", TEXT).groups()
FIRST_HASH, MONDAY, SEED = re.search(
    r"entry is `(\w{64})`, and the Monday is ([\d-]+)\. So the seed is `(\w{64})`", TEXT
).groups()


def test_the_example_by_hand():
    """Each number, remainder, draw and reason of the table follows from the text."""
    line = f"{FIRST_HASH}\n{MONDAY}".encode("ascii")
    assert hashlib.sha256(line).hexdigest() == SEED
    output = hashlib.shake_256(bytes.fromhex(SEED)).digest(8 * len(ROWS))
    numbers = [int(output[at : at + 4].hex(), 16) for at in range(0, len(output), 4)]
    assert numbers == [int(number) for row in ROWS for number in row[:2]]

    multiple, factors = re.search(r"(\d+) = ((?:\d+) × (?:\d+))\.", TEXT).groups()
    size, times = map(int, factors.split(" × "))
    assert int(multiple) == size * times == 2**32 - 2**32 % len(UNIVERSE)
    assert max(numbers) < int(multiple)

    seen, picks = set(), []
    ordinals = iter(("first", "second", "third"))
    for first, second, place, side, ticker, action, remark in ROWS:
        assert (int(first) % len(UNIVERSE), int(second) % 2) == (int(place), int(side))
        assert (UNIVERSE[int(place)], ["BUY", "SELL"][int(side)]) == (ticker, action)
        reasons = {"REPEATED": seen, "BENCHMARK": {BENCHMARK}, "REFUSED": {REFUSED}}
        reason = next((name for name, tickers in reasons.items() if ticker in tickers), None)
        if reason is None:
            picks.append((ticker, action))
            assert remark == f"the {next(ordinals)} pick"
        else:
            assert remark == f"`{reason}`"
        seen.add(ticker)
    assert len(picks) == 3


def test_the_answer_by_hand():
    """It is canonical, and has the draws of the table, the seed and the hash of the universe."""
    answer = json.loads(ANSWER)
    assert canonical_json(answer) == ANSWER
    draws = []
    for *_, ticker, action, remark in ROWS:
        skipped = {"skipped": remark.strip("`")} if remark.startswith("`") else {}
        draws.append({"ticker": ticker, "action": action, **skipped})
    lines = "".join(f"{ticker}\n" for ticker in UNIVERSE).encode("ascii")
    expected = {"draws": draws, "seed": SEED, "universe_sha256": hashlib.sha256(lines).hexdigest()}
    assert answer == expected


def test_the_code_gives_the_example():
    """The service draws the same, and stores the same answer."""
    seed = control.draw_seed(FIRST_HASH, date.fromisoformat(MONDAY))
    draws = control.draw(UNIVERSE, seed, benchmark=BENCHMARK, refused=[REFUSED])
    assert seed == SEED
    assert control.answer_text(UNIVERSE, seed, draws) == ANSWER


def test_the_numbers_of_the_text():
    """The version, the notice, the limit and the reasoning are those of the code."""
    assert f"(`draw_version`, here `{control.DRAW_VERSION}`)" in TEXT
    assert f"at least {control.UNIVERSE_NOTICE.days} days before" in TEXT
    assert f"if {control._MAX_DRAWS:,} draws give" in TEXT
    assert f'"{control.REASONING}"' in TEXT
    reasons = re.findall(r"- `([A-Z]+)`: ", SECTION)
    assert reasons == [str(reason) for reason in control.SkippedDraw]

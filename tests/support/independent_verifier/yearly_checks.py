"""The rules `rules`, `check` and `every-check`: docs/journal.md, "Yearly checks"."""

import math
from datetime import date, datetime
from decimal import Decimal

from independent_verifier.api import Row
from independent_verifier.known import (
    Entry,
    Known,
    day_of,
    newest_splits,
    priced_as_of,
    product,
    share_named,
)
from independent_verifier.long_over import OF_A_SERVICE, days_back
from independent_verifier.refused import require
from independent_verifier.sessions import DAY, SATURDAY, in_new_york

RULES = {
    "version": "1",
    "sha256": "0fd6e2ddb739b2b23871720b0ab3a601d76e2b8bb659438599d8bac844e2ccf9",
    "from_check": "1",
}
WEEK = 7 * DAY
# The digits after the point of a number.
DIGITS = {"mean_pct": 6, "beta": 6, "beyond_beta_pct": 6, "p": 9, "risk": 9, "bound": 9}


class YearlyChecks:
    """The checks of a journal: it takes entry after entry."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.rules_at: datetime | None = None
        self.held = 0
        self.times: list[datetime] = []  # of the entries of a service

    def take(self, entry: Entry, head: Row) -> None:
        """Check an entry. `head` is the entry before it."""
        if entry.kind == "RULES":
            require(self.rules_at is None, "rules", f"{entry.where}: there are rules already")
            fits = entry.content["rules"] == RULES
            require(fits, "rules", f"{entry.where}: {entry.content['rules']}")
            self.rules_at = entry.at
        if entry.kind == "CHECK":
            self.check(entry, head)
            self.check_in_time()
            self.held += 1
        if entry.kind in OF_A_SERVICE:
            self.times.append(entry.at)

    @property
    def first(self) -> date | None:
        """The earliest Monday of all batches."""
        return min((day_of(day) for _, day in self.known.batch_of_monday), default=None)

    def due(self) -> tuple[date, datetime] | None:
        """Return the day of the next check, and when it is due."""
        if self.first is None:
            return None
        on = self.first + (self.held + 1) * 52 * WEEK
        return on, in_new_york(on + 21 * DAY, 9)

    def check_in_time(self) -> None:
        """Check the rule `every-check` for the next check."""
        due, limit = self.due(), days_back(self.times)
        if due is None or self.rules_at is None or limit is None:
            return
        late = max(due[1], self.rules_at) <= limit
        require(not late, "every-check", f"the check of {due[0]} is missing")

    def check(self, entry: Entry, head: Row) -> None:
        """Check the rule `check`."""
        due = self.due()
        there = due is not None and self.rules_at is not None
        require(there, "check", f"{entry.where} comes before the rules")
        on, time = due
        require(entry.at >= time, "check", f"{entry.where} is held too early")
        made = CheckMaker(self, on)
        expected = made.make(late=time < self.rules_at, head=head)
        require_equal(entry.content["check"], expected, f"{entry.where}: check", "")
        rates = [row for _, row in entry.of("rates")]
        used = [made.used[day] for day in sorted(made.used)]
        require(rates == used, "check", f"{entry.where} has other rates")


def require_equal(value: object, expected: object, where: str, name: str) -> None:
    """Check that two values are equal; numbers may differ by one unit of their last digit."""
    if isinstance(expected, dict):
        fits = isinstance(value, dict) and set(value) == set(expected)
        require(fits, "check", f"{where} has other members")
        for member, one in expected.items():
            require_equal(value[member], one, f"{where}.{member}", member)
    elif isinstance(expected, list):
        fits = isinstance(value, list) and len(value) == len(expected)
        require(fits, "check", f"{where} has another length")
        for number, one in enumerate(expected):
            require_equal(value[number], one, f"{where}[{number}]", "")
    elif name in DIGITS and isinstance(value, str):
        digits = DIGITS[name]
        form = is_fixed(value, digits)
        near = form and abs(Decimal(value) - Decimal(expected)) <= Decimal(10) ** -digits
        require(near, "check", f"{where} is {value}, not {expected}")
    else:
        require(value == expected, "check", f"{where} is {value}, not {expected}")


def is_fixed(text: str, digits: int) -> bool:
    """Return whether a text is a number with these digits after the point."""
    try:
        number = Decimal(text)
    except ArithmeticError:
        return False
    zero = number == 0 and text.startswith("-")
    return number.is_finite() and not zero and text == f"{number:.{digits}f}"


def fixed(name: str, value: float) -> str:
    """Return a number as a check writes it."""
    text = f"{value:.{DIGITS[name]}f}"
    return text.lstrip("-") if float(text) == 0 else text


class CheckMaker:
    """Makes the member `check` of an entry from the entries before it."""

    def __init__(self, checks: YearlyChecks, on: date) -> None:
        self.checks, self.known, self.on = checks, checks.known, on
        self.used: dict[str, Row] = {}  # the rates that were used, by day
        self.rates: dict[str, Row] = {}
        self.closes: dict[tuple[str, str], Row] = {}
        self.splits: list[Row] = []
        for (table, _), row in self.known.newest.items():
            if table == "rates":
                keep_newest(self.rates, row["observed_on"], row)
            if table == "closes":
                keep_newest(self.closes, (row["ticker"], row["trading_day"]), row)
            if table == "splits":
                self.splits.append(row)

    def make(self, *, late: bool, head: Row) -> dict:
        number = self.checks.held + 1
        risk = 0.05 / (number * (number + 1))
        names = {
            series for series, run_date in self.known.batch_of_monday if day_of(run_date) <= self.on
        }
        evaluated = {name: self.evaluate(name) for name in sorted(names)}
        tested = []
        for name, (shown, p, _) in evaluated.items():
            reason = self.reason(shown, late=late, has_p=p is not None)
            shown["tested"] = "false" if reason else "true"
            if reason:
                shown["reason"] = reason
            else:
                tested.append((p, name))
        models = [name for name in evaluated if self.declared(name).get("kind") != "random"]
        order = compared(tested, risk=risk, count=len(models))
        found = [step["series"] for step in order if step["found"] == "true"]
        findings = [{"series": name, "side": evaluated[name][2]} for name in found]
        return {
            "number": str(number),
            "on": str(self.on),
            "late": "true" if late else "false",
            "rules": "1",
            "head": head,
            "risk": fixed("risk", risk),
            "series": [shown for shown, _, _ in evaluated.values()],
            "order": order,
            "findings": findings,
        }

    def reason(self, shown: dict, *, late: bool, has_p: bool) -> str | None:
        """Return why a series is not tested; None if it is."""
        declared = self.declared(shown["name"])
        if late and shown["name"] != "main":
            return "LATE"
        if declared.get("kind") == "random":
            return "CONTROL"
        if declared.get("profile", {}).get("tools") == "true":
            return "TOOLS"
        if declared.get("retired") == "true" or self.was_retired(shown["name"]):
            return "RETIRED"
        if int(shown["failed_mondays"]) > 4:
            return "FAILED_MONDAYS"
        if int(shown["weeks"]) - int(shown["imputed"]) < 30:
            return "TOO_FEW_WEEKS"
        return None if has_p else "NO_PROBABILITY"

    def declared(self, name: str) -> dict:
        """Return the newest declaration of a series."""
        return self.known.declared.newest_series(name) or {}

    def was_retired(self, name: str) -> bool:
        """Return whether a series was retired on a Monday since the check before."""
        mondays = [self.on - weeks * WEEK for weeks in range(1, 53)]
        in_force = [self.known.declared.series_in_force(name, str(day)) for day in mondays]
        return any(one is not None and "retired" in one for one in in_force)

    def evaluate(self, name: str) -> tuple[dict, float | None, str]:
        """Return what a check shows of a series, its probability, and its side."""
        all_batches = [
            self.known.batch(id)
            for (series, _), id in self.known.batch_of_monday.items()
            if series == name
        ]
        last = str(self.on - 2 * WEEK)
        counted = [
            WeeksOfBatch(self, batch)
            for batch in sorted(all_batches, key=lambda row: row["run_date"])
            if batch["status"] != "failed"
            and batch["late"] == "false"
            and batch["run_date"] <= last
        ]
        since = str(self.on - 52 * WEEK)
        failed = [
            batch
            for batch in all_batches
            if (batch["status"] == "failed" or batch["late"] == "true")
            and since <= batch["run_date"] < str(self.on)
        ]
        observed = [figure for batch in counted for figure in batch.observed()]
        weeks = {week for batch in counted for week in batch.weeks}
        gaps = {week for batch in counted if batch.has_gap for week in batch.weeks}
        shown: dict = {
            "name": name,
            "weeks": str(len(weeks)),
            "imputed": str(len(gaps)),
            "failed_mondays": str(len(failed)),
        }
        shown["better"], above = side_of(counted, min(observed, default=0.0), better=True)
        shown["worse"], below = side_of(counted, max(observed, default=0.0), better=False)
        if above is None or below is None:
            return shown, None, ""
        p = min(1.0, 2 * min(above, below))
        shown["p"] = fixed("p", p)
        return shown, p, "BETTER" if above <= below else "WORSE"

    def rate(self, first: date, last: date) -> float | None:
        """Return the rate of a week between two sessions."""
        days = [day for day in self.rates if day <= str(first - WEEK)]
        if not days:
            return None
        row = self.rates[max(days)]
        self.used[row["observed_on"]] = row
        return float(Decimal(row["value_pct"]) * (last - first).days / 365)


def compared(tested: list[tuple[float, str]], *, risk: float, count: int) -> list[dict]:
    """Return the member `order` of a check with so many series that count."""
    order, found = [], True
    for place, (p, name) in enumerate(sorted(tested)):
        bound = risk / (count - place)
        found = found and p <= bound
        step = {"series": name, "p": fixed("p", p), "bound": fixed("bound", bound)}
        order.append({**step, "found": "true" if found else "false"})
    return order


def keep_newest(rows: dict, key: object, row: Row) -> None:
    """Store a reading, unless a newer one is there."""
    if key not in rows or rows[key]["read_at"] < row["read_at"]:
        rows[key] = row


class WeeksOfBatch:
    """The two weeks of a batch."""

    def __init__(self, maker: CheckMaker, batch: Row) -> None:
        self.maker, self.known, self.batch = maker, maker.known, batch
        monday = day_of(batch["run_date"])
        self.weeks = (monday, monday + WEEK)
        baseline = day_of(batch["trading_day"])
        middle, result = (self.last_session(day) or baseline for day in (7, 14))
        self.changes = (self.change(middle), self.change(result))
        self.rates = (maker.rate(baseline, middle), maker.rate(middle, result))
        picks = [self.known.pick(id) for id in self.known.picks_of[batch["id"]]]
        self.alphas = [(self.alpha(pick, middle), self.alpha(pick, result)) for pick in picks]

    @property
    def has_gap(self) -> bool:
        return any(None in ends for ends in self.alphas)

    def observed(self) -> list[float]:
        """Return the figures of weeks with both ends."""
        figures = [middle for middle, _ in self.alphas if middle is not None]
        both = [ends for ends in self.alphas if None not in ends]
        return figures + [result - middle for middle, result in both]

    def figures(self, fill: float) -> tuple[list[float], list[float]]:
        """Return the figures of both weeks, one for each pick."""
        first, second = [], []
        for middle, result in self.alphas:
            start = fill if middle is None else middle
            first.append(start)
            second.append(fill if result is None else result - start)
        return first, second

    def x(self) -> tuple[float, float] | None:
        """Return the benchmark's change less the rate, of both weeks."""
        if None in self.changes or None in self.rates:
            return None
        middle, result = self.changes
        return float(middle) - self.rates[0], float(result - middle) - self.rates[1]

    def checkpoint(self, day: int) -> Row | None:
        id = self.known.checkpoints_of[self.batch["id"]].get(str(day))
        return self.known.checkpoint(id) if id else None

    def computed(self, session: date) -> Row | None:
        """Return the computed checkpoint of a session."""
        row = self.checkpoint((session - self.weeks[0]).days + 1)
        return row if row and row["status"] == "computed" else None

    def last_session(self, last: int) -> date | None:
        """Return the last session up to a day."""
        for day in range(last, 0, -1):
            session = self.weeks[0] + (day - 1) * DAY
            row = self.checkpoint(day)
            closed = row is not None and row.get("skip_reason") == "MARKET_CLOSED"
            read = (self.batch["benchmark_symbol"], str(session)) in self.maker.closes
            if session.weekday() < SATURDAY and (read or not closed):
                return session
        return None

    def change(self, session: date) -> Decimal | None:
        """Return the benchmark's change up to a session."""
        if str(session) == self.batch["trading_day"]:
            return Decimal(0)
        if row := self.computed(session):
            return Decimal(row["benchmark_return_pct"])
        close = self.maker.closes.get((self.batch["benchmark_symbol"], str(session)))
        if close is None:
            return None
        baseline = self.known.close(self.batch["benchmark_initial_close_id"])
        splits = newest_splits(self.maker.splits, share_named(close["ticker"]))
        factor = product(splits, priced_as_of(baseline), priced_as_of(close))
        initial = Decimal(self.batch["benchmark_initial_price"])
        return (Decimal(close["close"]) * factor - initial) / initial * 100

    def alpha(self, pick: Row, session: date) -> float | None:
        """Return a pick's alpha up to a session."""
        excess = self.excess(pick, session)
        if excess is None:
            return None
        return float(-excess if pick["action"] == "SELL" else excess)

    def excess(self, pick: Row, session: date) -> Decimal | None:
        if str(session) == self.batch["trading_day"]:
            return Decimal(0)
        if row := self.computed(session):
            metrics = (metric for _, metric in self.known.metrics(row["id"]))
            own = [one for one in metrics if one["pick_id"] == pick["id"]]
            return Decimal(own[0]["vs_benchmark_pct"]) if own else None
        change = self.change(session)
        price = through = None
        share = self.known.shares[pick["id"]]
        ending = self.known.endings.get(pick["id"])
        if ending and ending["last_session"] < str(session):
            price, through = ending["value"], ending["last_session"]
        else:
            for ticker in share.tickers_on(str(session)):
                if close := self.maker.closes.get((ticker, str(session))):
                    price, through = close["close"], priced_as_of(close)
        if change is None or price is None:
            return None
        after = priced_as_of(self.known.close(pick["initial_close_id"]))
        factor = product(newest_splits(self.maker.splits, share), after, through)
        initial = Decimal(pick["initial_price"])
        return (Decimal(price) * factor - initial) / initial * 100 - change


def side_of(batches: list[WeeksOfBatch], fill: float, *, better: bool) -> tuple[dict, float | None]:
    """Return what a check shows of a side, and its probability."""
    weeks: dict[date, list[tuple[float, float]]] = {}
    for batch in batches:
        changes = batch.x()
        if changes is None:
            return {}, None
        for week, x, figures in zip(batch.weeks, changes, batch.figures(fill), strict=True):
            weeks.setdefault(week, []).extend((x, figure) for figure in figures)
    if not weeks:
        return {}, None
    points = [
        (math.fsum(x for x, _ in held) / len(held), math.fsum(y for _, y in held) / len(held))
        for held in weeks.values()
    ]
    shown = {"mean_pct": fixed("mean_pct", math.fsum(y for _, y in points) / len(points))}
    slope, value, error = line_of(points)
    if slope is not None:
        shown["beta"] = fixed("beta", slope)
    if value is not None:
        shown["beyond_beta_pct"] = fixed("beyond_beta_pct", value)
    if value is None or error is None:
        return shown, None
    p = upper_tail(value / error, len(points) - 2)
    if not better:
        p = 1 - p
    shown["p"] = fixed("p", p)
    return shown, p


def line_of(points: list[tuple[float, float]]) -> tuple[float | None, float | None, float | None]:
    """Return the slope of the fitted line, its value at zero, and the standard error of that."""
    n = len(points)
    mean_x = math.fsum(x for x, _ in points) / n
    mean_y = math.fsum(y for _, y in points) / n
    xx = math.fsum((x - mean_x) ** 2 for x, _ in points)
    xy = math.fsum((x - mean_x) * (y - mean_y) for x, y in points)
    rest = 1e-20 * n * max(max(abs(x), abs(y)) for x, y in points) ** 2
    if n < 2 or xx <= rest:
        return None, None, None
    slope = xy / xx
    if n < 3:
        return slope, None, None
    squares = math.fsum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
    value = mean_y - slope * mean_x
    if squares <= rest:
        return slope, value, None
    return slope, value, math.sqrt(squares / (n - 2) * (1 / n + mean_x**2 / xx))


def upper_tail(t: float, freedom: int) -> float:
    """
    Return the probability that Student's t is at least `t`.

    The sums are those of Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    angle = math.atan(abs(t) / math.sqrt(freedom))
    square = math.cos(angle) ** 2
    odd = freedom % 2
    term, terms = (math.cos(angle) if odd else 1.0), []
    for number in range(1 + odd, freedom - 1, 2):
        terms.append(term)
        term *= square * number / (number + 1)
    if freedom > 1:
        terms.append(term)
    inside = math.sin(angle) * math.fsum(terms)
    if odd:
        inside = 2 / math.pi * (angle + inside)
    outside = (1 - inside) / 2
    return outside if t >= 0 else 1 - outside

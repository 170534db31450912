"""
An independent verifier computes every figure of `trackRecord` again, from docs/record.md and the
rows of the API alone.
"""

import asyncio
import json
import math
import re
import urllib.request
from collections import defaultdict
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import reduce
from hashlib import sha256, shake_256
from pathlib import Path
from random import Random
from uuid import uuid4
from zoneinfo import ZoneInfo

import psycopg
import pytest
from api_records import Record
from choosers import FIRST, SKILLED, Chooser, record
from held_checks import standing, write_check
from msgspec.structs import replace
from record_server import record_server
from series_records import CLAUDE, DICE, MODEL, declare

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "record.md").read_text()
OPERATION = (ROOT / "graphql" / "operations" / "TrackRecord.graphql").read_text()

# The independent verifier, from here ...

(ROWS,) = re.findall(r"```graphql\n(.*?)```", DOCS, re.DOTALL)
Z = 1.959963984540054


def query_api(url, query, **variables):
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        response = json.load(answer)
    assert "errors" not in response, response["errors"]
    return response["data"]


def rows(url):
    after, more = None, True
    while more:
        page = query_api(url, ROWS, after=after)["batches"]
        yield from page["nodes"]
        more, after = page["pageInfo"]["hasNextPage"], page["pageInfo"]["endCursor"]


def last_open(batch, days):
    open_days = [one for one in batch["checkpoints"] if one["day"] in days and one["wasSession"]]
    last = max(open_days, key=lambda one: one["day"], default=None)
    return last if last and last["status"] == "COMPUTED" else None


def figures_at(checkpoint):
    return {one["pick"]["id"]: one for one in checkpoint["metrics"]}


def total(values):
    return reduce(
        lambda so_far, value: so_far + value, sorted(values, key=lambda v: (abs(v), v)), Decimal(0)
    )


def mean(values):
    return total(values) / len(values)


def average(values):
    if not values:
        return {"mean": None, "median": None}
    ordered = sorted(values)
    return {
        "mean": mean(values),
        "median": mean(ordered[(len(values) - 1) // 2 : len(values) // 2 + 1]),
    }


def six(value):
    text = f"{float(value):.6f}"
    return text.removeprefix("-") if not float(text) else text


def between(low, high):
    return {"low": six(low), "high": six(high)}


def probability_within(t, freedom):
    """
    Return the probability that Student's t is between -t and t, by the finite sums for whole
    degrees of freedom.
    """
    angle = math.atan(t / math.sqrt(freedom))
    square = math.cos(angle) ** 2
    term, series = (math.cos(angle) if freedom % 2 else 1.0), 0.0
    for n in range(freedom // 2):
        series += term
        term *= square * ((2 * n + 2) / (2 * n + 3) if freedom % 2 else (2 * n + 1) / (2 * n + 2))
    series *= math.sin(angle)
    return 2 / math.pi * (angle + series) if freedom % 2 else series


def t_for(outside, freedom):
    low, high = 0.0, 1e6
    for _ in range(200):
        half = (low + high) / 2
        low, high = (half, high) if probability_within(half, freedom) < 1 - outside else (low, half)
    return low


def weeks_of(batches):
    held, without = defaultdict(list), 0
    for one in batches:
        if not one["middle"]:
            without += 1
            continue
        monday, number, middle = (
            date.fromisoformat(one["runDate"]),
            len(one["picks"]),
            figures_at(one["middle"]),
        )
        first = total(
            [one["sign"](pick, middle[pick["id"]]["vsBenchmarkPct"]) for pick in one["picks"]]
        )
        benchmark_middle, benchmark_end = (
            Decimal(one[name]["benchmarkReturnPct"]) for name in ("middle", "end")
        )
        held[monday].append((number, first, benchmark_middle))
        second = total([pick["alpha"] for pick in one["picks"]]) - first
        held[monday + timedelta(7)].append((number, second, benchmark_end - benchmark_middle))
    weeks = []
    for monday, parts in sorted(held.items()):
        number = sum(part[0] for part in parts)
        weeks.append(
            {
                "monday": str(monday),
                "picks": number,
                "excessPct": total([part[1] for part in parts]) / number,
                "benchmarkPct": total([part[2] * part[0] for part in parts]) / number,
            }
        )
    return weeks, without


def estimated(weeks, outside):
    """
    Return the estimates of some weeks; the interval beyond beta misses with the probability
    `outside`.
    """
    result = {
        "meanPct": None,
        "meanInterval": None,
        "beta": None,
        "beyondBetaPct": None,
        "beyondBetaInterval": None,
    }
    x, y = (
        [Fraction(float(week[name])) for week in weeks] for name in ("benchmarkPct", "excessPct")
    )
    n = len(weeks)
    if not n:
        return result
    x_mean, y_mean = sum(x) / n, sum(y) / n
    sxx, syy = sum((v - x_mean) ** 2 for v in x), sum((v - y_mean) ** 2 for v in y)
    sxy = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    nothing = Fraction(1, 10**20) * n * max(map(abs, x + y)) ** 2
    result["meanPct"] = six(y_mean)
    if n > 1 and syy > nothing:
        reach = t_for(0.05, n - 1) * math.sqrt(syy / (n - 1) / n)
        result["meanInterval"] = between(y_mean - Fraction(reach), y_mean + Fraction(reach))
    if n > 1 and sxx > nothing:
        beta = sxy / sxx
        result["beta"] = six(beta)
        if n > 2:
            beyond, rest = y_mean - beta * x_mean, syy - beta * sxy
            result["beyondBetaPct"] = six(beyond)
            if rest > nothing:
                error = math.sqrt(rest / (n - 2) * (Fraction(1, n) + x_mean**2 / sxx))
                reach = Fraction(t_for(outside, n - 2) * error)
                result["beyondBetaInterval"] = between(beyond - reach, beyond + reach)
    return result


def tossed(picks):
    if not picks:
        return None
    lines = "".join(f"{pick['monday']} {pick['ticker']} {pick['vs']}\n" for pick in picks)
    seed = sha256(lines.encode()).hexdigest()
    eights = [[float(pick["alpha"]) for pick in picks[n : n + 8]] for n in range(0, len(picks), 8)]
    bits = [shake_256(f"{seed}/{g}".encode("ascii")).digest(1000) for g in range(len(eights))]

    def with_signs(signs):
        so_far = 0.0
        for eight, byte in zip(eights, signs, strict=True):
            within = 0.0
            for n, alpha in enumerate(eight):
                within += alpha if byte >> n & 1 else -alpha
            so_far += within
        return so_far / len(picks)

    own = with_signs([255] * len(eights))
    draws = sorted(with_signs([one[d] for one in bits]) for d in range(1000))
    a, b = draws[0], draws[-1]
    edges = [a + (b - a) * n / 20 for n in range(20)] + [b]
    counts = [sum(edges[n] <= draw < edges[n + 1] for draw in draws) for n in range(19)]
    return {
        "draws": 1000,
        "seed": seed,
        "belowPct": six(
            (sum(draw < own for draw in draws) + sum(draw == own for draw in draws) / 2)
            * 100
            / 1000
        ),
        "interval": between(draws[25], draws[-26]),
        "bins": [
            {**between(edges[n], edges[n + 1]), "count": count}
            for n, count in enumerate([*counts, 1000 - sum(counts)])
        ],
    }


(REASONS,) = re.findall(r"\| `untestedReason` \| REASON \|\n.*?\n\n", DOCS, re.DOTALL)


def read_checks(url):
    """Return the checks of the record, and the first and the newest Monday of all series."""
    query = """{
        journal(first: 100, kind: CHECK) { nodes { seq at content } }
        series { name kind firstRunDate profiles { tools } latestBatch { runDate } }
    }"""
    data = query_api(url, query)
    known = [one for one in data["series"] if one["firstRunDate"]]
    main = of_series(data["series"], "name") or {"kind": "MODEL", "profiles": []}
    marker = None
    if main["kind"] == "RANDOM":
        marker = "> A control, whose"
    elif main["profiles"] and main["profiles"][-1]["tools"]:
        marker = "> The model has tools"
    return {
        "entries": data["journal"]["nodes"],
        "first": min((one["firstRunDate"] for one in known), default=None),
        "newest": max((one["latestBatch"]["runDate"] for one in known), default=None),
        "marker": marker,
    }


def of_series(items, name="series"):
    return next((one for one in items if one[name] == "main"), None)


def look_of(entry, every):
    check = json.loads(entry["content"])["check"]
    its_object = of_series(check["series"], "name")
    if its_object is None:
        return []
    step, found = of_series(check["order"]), of_series(check["findings"])
    side = "BETTER"
    if found:
        side = found["side"]
    elif float(its_object["worse"].get("p", 1)) < float(its_object["better"].get("p", 0)):
        side = "WORSE"
    finding = None
    if step:
        finding = found["side"] if found else "UNDECIDED"
    last = str(date.fromisoformat(check["on"]) - timedelta(14))
    look = {
        "number": int(check["number"]),
        "on": check["on"],
        "seq": entry["seq"],
        "heldAt": entry["at"],
        "late": check["late"] == "true",
        "sharePct": str((100 * Decimal(check["risk"])).quantize(Decimal("0.000001"))),
        "batches": sum(
            one["status"] != "FAILED" and not one["late"] and one["runDate"] <= last
            for one in every
        ),
        "weeks": int(its_object["weeks"]),
        "gaps": int(its_object["imputed"]),
        "failedMondays": int(its_object["failed_mondays"]),
        "beyondBetaPct": its_object[side.lower()].get("beyond_beta_pct"),
        "probability": its_object.get("p"),
        "bound": step["bound"] if step else None,
        "finding": finding,
        "untestedReason": its_object.get("reason"),
    }
    return [look]


def verdict_of(every, scored, part, checks):
    verdict = {"finding": None, "foundOn": None, "looks": []}
    verdict |= {"nextLook": None, "nextLookHeldAt": None}
    if part:
        words = DOCS.split("> Only the whole", 1)[1].split("\n\n")[0].replace("\n> ", " ")
        return {**verdict, "words": f"Only the whole{words}"}
    looks = [look for entry in checks["entries"] for look in look_of(entry, every)]
    decisive = None
    for findings in (("BETTER", "WORSE"), ("UNDECIDED",)):
        decided = [look for look in looks if look["finding"] in findings]
        if decided and not decisive:
            decisive = decided[-1]
    on = None
    if checks["first"]:
        weeks = 52 * (len(checks["entries"]) + 1)
        on = date.fromisoformat(checks["first"]) + timedelta(weeks=weeks)
        held = datetime.combine(on + timedelta(21), time(9), ZoneInfo("America/New_York"))
        at = held.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        verdict |= {"nextLook": str(on), "nextLookHeldAt": at}
    if decisive:
        verdict["finding"] = decisive["finding"]
        if decisive["finding"] != "UNDECIDED":
            verdict["foundOn"] = decisive["on"]
    words = "There is nothing to judge: the series has no Monday yet."
    if every and checks["marker"] and not decisive:
        (words,) = re.findall(rf"^{checks['marker']}.*$", DOCS, re.MULTILINE)
        words = words.removeprefix("> ")
    elif every:
        words = " ".join(sentences(looks, decisive, scored, checks, on))
    return {**verdict, "looks": looks, "words": words}


def sentences(looks, decisive, scored, checks, on):
    if not looks:
        some = f"{len(scored)} scored {'batch' if len(scored) == 1 else 'batches'}"
        yield f"Too early to tell skill from luck: {some} so far."
    if decisive:
        what = {
            "BETTER": "the picks did better than luck explains",
            "WORSE": "the picks did worse than bad luck explains",
            "UNDECIDED": "the record could not be distinguished from luck",
        }[decisive["finding"]]
        percent = f"{100 * Decimal(decisive['probability']):.4f}"
        if not float(percent):
            percent = "less than 0.0001"
        yield (
            f"At the yearly check of {decisive['on']}, over {decisive['weeks']} weeks, {what}: "
            f"beyond the benchmark and its beta, the picks added "
            f"{Decimal(decisive['beyondBetaPct']):+.2f} % a week, which luck alone reaches with a "
            f"probability of {percent} %."
        )
    if looks and looks[-1] is not decisive:
        last = looks[-1]
        if last["untestedReason"] is None:
            yield f"The yearly check of {last['on']} found nothing more."
        else:
            (reason,) = re.findall(rf"\| `{last['untestedReason']}` \| (.*?) \|", REASONS)
            yield f"The yearly check of {last['on']} did not test the picks: {reason}."
        if decisive and decisive["finding"] != "UNDECIDED":
            yield "The earlier finding stands."
    held = on + timedelta(21)
    if checks["newest"] < str(on):
        yield f"The {'next' if checks['entries'] else 'first'} yearly check is on {on}."
    elif checks["newest"] <= str(held):
        yield f"The yearly check of {on} waits until {held} for figures that are still missing."
    else:
        yield f"The yearly check of {on} was due on {held}, and the journal does not have it yet."


def results(groups):
    return {
        "count": len(groups),
        **{
            name: average([mean([pick[key] for pick in group]) for group in groups])
            for name, key in (
                ("alphaPct", "alpha"),
                ("directionalReturnPct", "directed"),
                ("absoluteReturnPct", "return"),
            )
        },
    }


def wilson_of(hits, n):
    """Return the interval of a share in percent, and the share; both are None without picks."""
    if not n:
        return {"hitRatePct": None, "hitRateInterval": None}
    share = Fraction(hits, n)
    middle = share + Z * Z / (2 * n)
    reach = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    low, high = ((middle + sign * reach) / (1 + Z * Z / n) * 100 for sign in (-1, 1))
    return {
        "hitRatePct": six(100 * share),
        "hitRateInterval": between(low if hits else 0, 100 if hits == n else high),
    }


def costs_of(picks, curve, bps):
    """Return the results after costs, and the cost that leaves a mean of zero."""
    loss = Decimal("0.02") * bps
    alpha, directed = (average([pick[key] for pick in picks]) for key in ("alpha", "directed"))
    hits = sum(pick["alpha"] > loss for pick in picks)
    after = {
        "bps": bps,
        "costPct": loss,
        "meanAlphaPct": alpha["mean"] - loss if picks else None,
        "medianAlphaPct": alpha["median"] - loss if picks else None,
        "meanDirectionalReturnPct": directed["mean"] - loss if picks else None,
        "sumPct": curve[-1]["sumPct"] - loss * len(curve) if picks else None,
        "hits": hits,
        **wilson_of(hits, len(picks)),
    }
    return {
        "afterCosts": after,
        "breakEvenBps": alpha["mean"] / Decimal("0.02") if picks else None,
    }


def exactly(value):
    """Return a fraction, rounded once to 28 digits."""
    return Decimal(value.numerator) / Decimal(value.denominator)


def shares_of(picks):
    hits = sum(pick["alpha"] > 0 for pick in picks)
    stated = [pick["probability"] for pick in picks]
    return {
        "picks": len(picks),
        "hits": hits,
        "meanStatedPct": exactly(Fraction(sum(stated), len(stated))) if stated else None,
        **wilson_of(hits, len(picks)),
    }


def probability_of(picks):
    """Return the scores of the stated probabilities."""
    picks = [pick for pick in picks if pick["probability"] is not None]
    if not picks:
        return None
    shares, n = shares_of(picks), len(picks)
    groups = defaultdict(list)
    for pick in picks:
        groups[pick["probability"]].append(pick["alpha"] > 0)
    o = Fraction(shares["hits"], n)
    brier = sum((Fraction(pick["probability"], 100) - (pick["alpha"] > 0)) ** 2 for pick in picks)
    rows = [
        (Fraction(stated, 100), Fraction(sum(hits), len(hits)), len(hits))
        for stated, hits in groups.items()
    ]
    return {
        **shares,
        "brierScore": exactly(brier / n),
        "reliability": exactly(sum(n_k * (p_k - o_k) ** 2 for p_k, o_k, n_k in rows) / n),
        "resolution": exactly(sum(n_k * (o_k - o) ** 2 for _, o_k, n_k in rows) / n),
        "uncertainty": exactly(o * (1 - o)),
        "hitRateBrierScore": exactly(o * (1 - o)),
        "halfBrierScore": Decimal("0.25"),
        "groups": [
            {"statedPct": stated, "picks": len(hits), "hits": sum(hits)}
            for stated, hits in sorted(groups.items())
        ],
        "bins": [
            {
                "lowPct": low,
                "highPct": low + 9,
                **shares_of([pick for pick in picks if low <= pick["probability"] <= low + 9]),
            }
            for low in (50, 60, 70, 80, 90)
        ],
        "words": calibration_words(shares),
    }


def calibration_words(shares):
    n, mean_stated = shares["picks"], shares["meanStatedPct"]
    (early,) = re.findall(r'"(Too early to say whether the prob.*?)"', " ".join(DOCS.split()))
    if n < 60:
        some = "1 finished pick has" if n == 1 else f"{n} finished picks have"
        return early.replace("N finished picks have", some)
    (sentences,) = re.findall(r'"(FINDING: .*?)"', " ".join(DOCS.split()))
    interval = shares["hitRateInterval"]
    low, high = Decimal(interval["low"]), Decimal(interval["high"])
    condition = "otherwise"
    if mean_stated > high:
        condition = "above `high`"
    elif mean_stated < low:
        condition = "below `low`"
    ((finding, place),) = re.findall(rf"^\| {condition} \| (.+) \| (.+) \|$", DOCS, re.MULTILINE)
    values = {
        "STATED": mean_stated,
        "RATE": Decimal(shares["hitRatePct"]),
        "LOW": low,
        "HIGH": high,
    }
    sentences = sentences.replace("FINDING", finding).replace("PLACE", place)
    for name, value in values.items():
        sentences = sentences.replace(name, str(value.quantize(Decimal("0.01"))))
    return sentences


def totals_of(picks):
    """Return the results with dividends, of the picks that have them."""
    known = [pick for pick in picks if "total" in pick]
    return {
        "count": len(known),
        "alphaPct": average([pick["alpha"] for pick in known]),
        "totalAlphaPct": average([pick["total"] for pick in known]),
        "directionalTotalReturnPct": average([pick["total return"] for pick in known]),
        "totalHits": sum(pick["total"] > 0 for pick in known),
    }


def against_others(picks):
    """Return the mean excess over each further benchmark, in the order of their tickers."""
    symbols = sorted({symbol for pick in picks for symbol in pick["further"]})
    averages = []
    for symbol in symbols:
        compared = [pick for pick in picks if symbol in pick["further"]]
        averages.append(
            {
                "symbol": symbol,
                "meanAlphaPct": mean([pick["further"][symbol] for pick in compared]),
                "benchmarkMeanAlphaPct": mean([pick["alpha"] for pick in compared]),
                "picks": len(compared),
            }
        )
    return averages


def computed_again(batches, checks, first=None, last=None, action=None, bps=5):
    """Return every figure of `trackRecord`, computed from the rows of the API."""
    every = sorted(batches, key=lambda one: one["runDate"])
    every = [
        one
        for one in every
        if (not first or one["runDate"] >= first) and (not last or one["runDate"] <= last)
    ]
    for one in every:
        one["picks"] = sorted(
            (p for p in one["picks"] if action in (None, p["action"])), key=lambda p: p["ticker"]
        )
        one["middle"] = last_open(one, range(1, 8))
        one["end"] = last_open(one, range(1, 15)) if one["status"] == "COMPLETED" else None
        assert (one["end"] or {}).get("day") == (one["result"] or {}).get("day")
        one["sign"] = lambda pick, text: (
            -Decimal(text) if pick["action"] == "SELL" else Decimal(text)
        )
        for pick in one["picks"] if one["end"] else []:
            figures = figures_at(one["end"])[pick["id"]]
            pick |= {
                "monday": one["runDate"],
                "vs": figures["vsBenchmarkPct"],
                "alpha": one["sign"](pick, figures["vsBenchmarkPct"]),
                "directed": one["sign"](pick, figures["absoluteReturnPct"]),
                "return": Decimal(figures["absoluteReturnPct"]),
                "further": {
                    one_other["symbol"]: one["sign"](pick, one_other["vsPct"])
                    for one_other in figures["vsBenchmarks"]
                },
            }
            if figures["totalReturnPct"] is not None:
                pick |= {
                    "total": Decimal(figures["totalAlphaPct"]),
                    "total return": one["sign"](pick, figures["totalReturnPct"]),
                }
    scored = [one for one in every if one["end"] and not one["late"]]
    counted = [one for one in scored if one["picks"]]
    picks = [pick for one in counted for pick in one["picks"]]
    hits, n = sum(pick["alpha"] > 0 for pick in picks), len(picks)
    curve, summed, highest, fall = [], Decimal(0), Decimal(0), Decimal(0)
    for one in counted:
        alpha = mean([pick["alpha"] for pick in one["picks"]])
        summed += alpha
        curve.append({"runDate": one["runDate"], "alphaPct": alpha, "sumPct": summed})
        highest = max(highest, summed)
        fall = max(fall, highest - summed)
    weeks, without = weeks_of(counted)
    scores = [
        {
            "id": p["id"],
            "runDate": p["monday"],
            "ticker": p["ticker"],
            "action": p["action"],
            "alphaPct": p["alpha"],
        }
        for p in picks
    ]
    statuses = [one["status"] for one in every]
    estimates = estimated(weeks, 0.05)
    return {
        "firstRunDate": every[0]["runDate"] if every else None,
        "lastRunDate": every[-1]["runDate"] if every else None,
        "verdict": verdict_of(every, scored, first or last or action, checks),
        "batches": {
            "total": len(every),
            **{name: statuses.count(name.upper()) for name in ("active", "completed", "failed")},
            "late": sum(one["late"] and one["status"] != "FAILED" for one in every),
            "unresolved": sum(one["status"] == "COMPLETED" and not one["end"] for one in every),
            "scored": len(scored),
        },
        "picks": {
            "total": sum(len(one["picks"]) for one in every),
            "finished": n,
            "hits": hits,
            **wilson_of(hits, n),
        },
        "pickResults": results([[pick] for pick in picks]),
        "batchResults": results([one["picks"] for one in counted]),
        "totalResults": totals_of(picks),
        "vsBenchmarks": against_others(picks),
        "best": max(scores, key=lambda score: score["alphaPct"], default=None),
        "worst": min(scores, key=lambda score: score["alphaPct"], default=None),
        "curve": curve[-520:],
        "drawdownPct": fall,
        "weeklyExcess": {
            "count": len(weeks),
            "withoutMiddle": without,
            **estimates,
            "weeks": weeks[-520:],
        },
        "randomActions": tossed(picks),
        **costs_of(picks, curve, bps),
        "probability": probability_of(picks),
    }


# ... to here.


def compare(published, computed, where="trackRecord"):
    """
    Compare the API's track record with the one that was computed independently: exact figures as
    numbers, the others as texts.
    """
    if isinstance(computed, Decimal):
        assert Decimal(published) == computed, where
    elif isinstance(computed, dict):
        assert published is not None, where
        assert set(published) == set(computed), where
        for name in computed:
            compare(published[name], computed[name], f"{where}.{name}")
    elif isinstance(computed, list):
        assert len(published) == len(computed), where
        for n, (one, other) in enumerate(zip(published, computed, strict=True)):
            compare(one, other, f"{where}[{n}]")
    else:
        assert published == computed, where


AT = "2026-01-05T14:00:00Z"
BETWEEN = Decimal("7.25")


def plant(database, fortnights):
    """
    Write batches with their middle (day 5) and result (day 12), as real weeks have them, and a day
    8 between.
    """
    with psycopg.connect(database) as conn:
        conn.execute(
            "SET session_replication_role = replica"
        )  # figures without prices: the triggers would refuse

        def add(table, **row):
            places = ", ".join(["%s"] * len(row))
            conn.execute(
                f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", list(row.values())
            )

        for one in fortnights:
            batch, has_picks = uuid4(), bool(one.picks)
            add(
                "batches",
                id=batch,
                series="main",
                run_date=one.run_date,
                created_at=AT,
                status=one.status,
                late=one.late,
                benchmark_symbol="SPY",
                failure=None if has_picks else "No.",
                failure_reason=None if has_picks else "MISSED",
                benchmark_initial_price=1 if has_picks else None,
                benchmark_initial_close_id=uuid4() if has_picks else None,
                trading_day=one.run_date - timedelta(3) if has_picks else None,
            )
            ids = [uuid4() for _ in one.picks]
            for n, (id, pick) in enumerate(zip(ids, one.picks, strict=True), 1):
                add(
                    "picks",
                    id=id,
                    batch_id=batch,
                    position=n,
                    ticker=pick.ticker,
                    action=pick.action,
                    reasoning="It rises.",
                    probability=pick.probability,
                    initial_price=1,
                    initial_close_id=uuid4(),
                    ended=False,
                )
            # Day 8 has figures that enter nothing: the first week ends before it. All other days
            # are closed.
            moves = {5: one.middle_benchmark_pct, 8: BETWEEN, 12: one.benchmark_pct}
            days = 0
            if has_picks:
                days = 8 if one.status == "active" else 15
            for day in range(days):
                checkpoint, benchmark_return = uuid4(), moves.get(day)
                is_computed, reason = (
                    day == 0 or benchmark_return is not None,
                    "MISSING_CLOSE" if day in moves else "MARKET_CLOSED",
                )
                computed = {
                    "trading_day": one.run_date + timedelta(day - 1),
                    "benchmark_price": 1,
                    "benchmark_close_id": uuid4(),
                    "benchmark_split_factor": 1,
                    "benchmark_return_pct": benchmark_return,
                }
                add(
                    "checkpoints",
                    id=checkpoint,
                    batch_id=batch,
                    day=day,
                    taken_at=AT,
                    checkpoint_date=one.run_date + timedelta(day),
                    status="computed" if is_computed else "skipped",
                    skip_reason=None if is_computed else reason,
                    skipped_at=None if is_computed else AT,
                    **(computed if is_computed else {}),
                )
                for id, pick in (
                    zip(ids, one.picks, strict=True) if benchmark_return is not None else []
                ):
                    total = pick.vs_benchmark_total_pct if day == 12 else None
                    figure = {
                        5: pick.middle_vs_benchmark_pct,
                        8: BETWEEN,
                        12: pick.vs_benchmark_pct,
                    }[day]
                    add(
                        "pick_checkpoint_metrics",
                        id=uuid4(),
                        checkpoint_id=checkpoint,
                        pick_id=id,
                        current_price=1,
                        close_id=uuid4(),
                        split_factor=1,
                        vs_benchmark_pct=figure,
                        unusual_move=False,
                        ended=False,
                        absolute_return_pct=pick.absolute_return_pct,
                        dividends=None if total is None else 0,
                        total_return_pct=None if total is None else pick.total_return_pct,
                        vs_benchmark_total_pct=total,
                        spin_off_counted_once=None if total is None else False,
                    )


def changed(fortnights, weeks, **values):
    """Return these batches, some of them with other values."""
    return [
        replace(one, **values) if n in weeks and one.picks else one
        for n, one in enumerate(fortnights)
    ]


INDIFFERENT = Chooser()


def years(mondays, seed=1, chooser=INDIFFERENT):
    """Return a record with late batches, batches without a middle, ties, and two active batches."""
    made = changed(record(chooser, seed, mondays), (5, 17), late=True)
    made = changed(made, (7, 8, 30), middle_benchmark_pct=None)
    made = [
        replace(one, picks=made[n - 1].picks) if n in (12, 13) and made[n - 1].picks else one
        for n, one in enumerate(made)
    ]
    return changed(made, (mondays - 2, mondays - 1), status="active", benchmark_pct=None)


def with_totals(fortnights, share=0.8):
    """Return these batches with total returns of about this share of their results."""
    random = Random(2)
    made = []
    for one in fortnights:
        picks = []
        for pick in one.picks:
            received = Decimal(random.randrange(0, 20_000)) / 10_000
            if pick.absolute_return_pct is not None and random.random() < share:
                pick = replace(
                    pick,
                    total_return_pct=pick.absolute_return_pct + received,
                    vs_benchmark_total_pct=pick.vs_benchmark_pct + received - Decimal("0.3333"),
                )
            picks.append(pick)
        made.append(replace(one, picks=picks))
    return made


def with_probabilities(fortnights, lowest, highest, since=0, knows=0):
    """
    Return these batches with probabilities from `lowest` to `highest`, from a batch on.

    If the call is right, `knows` is added to the probability.
    """
    random = Random(1)
    made = []
    for number, one in enumerate(fortnights):
        picks = []
        for pick in one.picks:
            stated = random.randint(lowest, highest)
            if pick.vs_benchmark_pct is not None and pick.alpha_pct > 0:
                stated = min(stated + knows, 99)
            picks.append(replace(pick, probability=stated if number >= since else None))
        made.append(replace(one, picks=picks))
    return made


def quiet(mondays):
    """Return a record in which no price changes."""
    still = record(Chooser(), 1, mondays)
    nothing = Decimal("0.00")
    figures = {
        "middle_vs_benchmark_pct": nothing,
        "vs_benchmark_pct": nothing,
        "absolute_return_pct": nothing,
    }
    still = [replace(one, picks=[replace(pick, **figures) for pick in one.picks]) for one in still]
    return changed(still, range(mondays), middle_benchmark_pct=nothing, benchmark_pct=nothing)


def on_a_line(mondays, slope="0.5000", base="0.1000"):
    """
    Return a record whose weeks are exactly on a line: each pick's excess is a part of the
    benchmark's change, plus a constant.
    """
    slope, base = Decimal(slope), Decimal(base)

    def in_line(one):
        if one.middle_benchmark_pct is None or one.benchmark_pct is None:
            return replace(one, late=True)
        middle, end = slope * one.middle_benchmark_pct + base, slope * one.benchmark_pct + 2 * base
        sign = {"BUY": 1, "SELL": -1}
        picks = [
            replace(
                pick,
                middle_vs_benchmark_pct=sign[pick.action] * middle,
                vs_benchmark_pct=sign[pick.action] * end,
            )
            for pick in one.picks
        ]
        return replace(one, picks=picks)

    return [in_line(one) for one in record(Chooser(), 1, mondays)]


def scored(mondays):
    """Return the first scored batches of a record."""
    return [one for one in record(Chooser(), 4, 40) if one.benchmark_pct is not None][:mondays]


NO_CHECKS = []


def checks_of(*numbers, chooser=0.0, **members):
    """Return the standings of `main` at the checks with these numbers, beside another series."""
    return [[standing("main", chooser, **members), standing("other")] for _ in numbers]


RECORDS = [
    pytest.param([], NO_CHECKS, "nothing to judge", id="no batch"),
    pytest.param(
        scored(1),
        NO_CHECKS,
        "1 scored batch so far",
        id="one batch: two weeks, a beta and nothing beyond it",
    ),
    pytest.param(scored(2), NO_CHECKS, "2 scored batches so far", id="two batches"),
    pytest.param(scored(3), NO_CHECKS, "The first yearly check is on", id="three batches"),
    pytest.param(
        changed(scored(3), (0, 1, 2), late=True),
        NO_CHECKS,
        "0 scored batches so far",
        id="only late ones",
    ),
    pytest.param(
        changed(scored(3), (0, 1, 2), middle_benchmark_pct=None),
        NO_CHECKS,
        "3 scored",
        id="none with a middle",
    ),
    pytest.param(years(54), NO_CHECKS, "waits until", id="a check that waits"),
    pytest.param(years(58), NO_CHECKS, "does not have it yet", id="an older version's record"),
    pytest.param(years(58), checks_of(1), "could not be distinguished from luck", id="a year"),
    pytest.param(
        years(58, 2, SKILLED),
        checks_of(1, chooser=0.4, gaps=3),
        "The next yearly check is on",
        id="a year of a chooser who knows something, with gaps",
    ),
    pytest.param(
        years(110, 3, replace(SKILLED, skill=2.0)),
        [*checks_of(1), *checks_of(2, chooser=1.0)],
        "better than luck",
        id="two checks, better",
    ),
    pytest.param(
        years(58, 3, replace(SKILLED, skill=-3.0)),
        checks_of(1, chooser=-1.0),
        "worse than bad luck",
        id="worse",
    ),
    pytest.param(
        years(110),
        [*checks_of(1, chooser=1.0), *checks_of(2)],
        "found nothing more. The earlier finding stands.",
        id="a finding that is not found again",
    ),
    pytest.param(
        years(110),
        [*checks_of(1, chooser=1.0), *checks_of(2, was_retired=True)],
        "the series was retired. The earlier finding stands.",
        id="retired",
    ),
    *[
        pytest.param(years(58), checks_of(1, **members), words, id=words)
        for words, members in (
            ("drawn at random", {"is_control": True}),
            ("has tools", {"has_tools": True}),
            ("more than 4 Mondays", {"failed_mondays": 5}),
            ("fewer than 30 weeks", {"weeks": 29}),
        )
    ],
    pytest.param(
        years(58), [[standing("other")]], "The next yearly check is on", id="a late series"
    ),
    pytest.param(quiet(56), NO_CHECKS, "Too early", id="nothing moves"),
    pytest.param(on_a_line(58), NO_CHECKS, "Too early", id="weeks on a line"),
    pytest.param(
        on_a_line(58, "-1.3000", "-0.7000"),
        NO_CHECKS,
        "Too early",
        id="weeks on a line that falls",
        marks=pytest.mark.long,
    ),
    pytest.param(
        on_a_line(58, "0.0010", "3.0000"),
        NO_CHECKS,
        "Too early",
        id="on a line that is almost level",
    ),
    pytest.param(
        on_a_line(110, "1.0000", "0.0000"),
        NO_CHECKS,
        "Too early",
        id="two years on a line",
        marks=pytest.mark.long,
    ),
    pytest.param(
        changed(years(58), range(58), middle_benchmark_pct=Decimal(0), benchmark_pct=Decimal(0)),
        NO_CHECKS,
        "Too early",
        id="a benchmark that never moves",
    ),
]


async def check(database, **arguments):
    """Compare the track record of a database (`compared`); return the verdict's words."""
    return (await compared(database, **arguments))["verdict"]["words"]


async def scores(database, **arguments):
    """Compare the track record of a database (`compared`); return the scores of probabilities."""
    return (await compared(database, **arguments))["probability"]


async def compared(database, **arguments):
    """
    Compare the track record of a database with the one that is computed independently from its
    rows, and return it.
    """
    async with record_server(database) as url:
        published = (await asyncio.to_thread(query_api, url, OPERATION, **arguments))["trackRecord"]
        batches = await asyncio.to_thread(lambda: list(rows(url)))
        checks = await asyncio.to_thread(read_checks, url)
    renamed = {"from": "first", "to": "last"}
    part = {renamed.get(name, name): value for name, value in arguments.items()}
    compare(published, computed_again(batches, checks, **part))
    return published


@pytest.mark.parametrize(("fortnights", "checks", "words"), RECORDS)
@pytest.mark.sampled(10)
async def test_the_independent_verifier_computes_the_same(fortnights, checks, words, database):
    """It agrees on whole records: short ones, ones without any moves, and ones with checks."""
    plant(database, with_totals(fortnights))
    with psycopg.connect(database) as conn:
        journaled = Record(conn)
        for number, standings in enumerate(checks, 1):
            write_check(journaled, number, *standings, first=FIRST)
    assert words in await check(database)


@pytest.mark.parametrize(
    ("fortnights", "words"),
    [
        pytest.param(with_probabilities(scored(1), 70, 70), "Too early", id="one batch"),
        pytest.param(with_probabilities(years(58), 50, 99), "Overconfident", id="any probability"),
        pytest.param(with_probabilities(years(58), 50, 53), "Not disting", id="near a half"),
        pytest.param(
            with_probabilities(years(58), 70, 80, since=30, knows=15),
            "Overconfident",
            id="since the prompt asks for one",
        ),
        pytest.param(
            with_probabilities(years(58, 3, replace(SKILLED, skill=3.0)), 50, 52),
            "Underconfident",
            id="knows more than it states",
        ),
        pytest.param(with_probabilities(quiet(56), 50, 99), "Overconfident", id="nothing moves"),
    ],
)
@pytest.mark.parametrize("bps", [0, 15, 10_000])
@pytest.mark.sampled(6)
async def test_the_independent_verifier_computes_the_same_scores(fortnights, words, bps, database):
    """It agrees on what the probabilities are worth, and on what costs take off."""
    plant(database, fortnights)
    assert (await scores(database, bps=bps))["words"].startswith(words)


@pytest.mark.parametrize(
    ("profile", "checks", "words"),
    [
        pytest.param(DICE, NO_CHECKS, "A control, whose picks", id="a control"),
        pytest.param(
            DICE, checks_of(1, is_control=True), "A control, whose picks", id="a control, a check"
        ),
        pytest.param(CLAUDE, NO_CHECKS, "The model has tools, so", id="tools"),
        pytest.param(
            CLAUDE, checks_of(1, has_tools=True), "The model has tools, so", id="tools, a check"
        ),
        pytest.param(
            CLAUDE, checks_of(1, chooser=1.0), "better than luck", id="tools after a finding"
        ),
        pytest.param(MODEL, NO_CHECKS, "Too early", id="neither"),
    ],
)
async def test_the_independent_verifier_knows_what_is_never_tested(
    profile, checks, words, database
):
    """It agrees on a control, and on a model with tools, before the first check and after it."""
    plant(database, years(58))
    with psycopg.connect(database) as conn:
        journaled = Record(conn)
        declare(journaled, "main", profile)
        for number, standings in enumerate(checks, 1):
            write_check(journaled, number, *standings, first=FIRST)
    assert words in await check(database)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"from": "2020-03-10"}, id="from a day that is no Monday"),
        pytest.param({"to": "2020-06-15"}, id="up to a Monday"),
        pytest.param({"from": "2020-03-09", "to": "2020-03-09"}, id="one Monday"),
        pytest.param({"action": "SELL"}, id="only the SELLs"),
        pytest.param({"action": "BUY", "from": "2020-05-04"}, id="the BUYs since"),
        pytest.param({"from": "2050-01-03"}, id="nothing"),
    ],
)
async def test_the_independent_verifier_computes_the_same_part(arguments, database):
    """It agrees on parts of a year."""
    plant(database, years(58))
    assert (await check(database, **arguments)).startswith("Only the whole series")

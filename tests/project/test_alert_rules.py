"""Each alert rule reads metrics that a process has, and has its section on the page."""

import re
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import NamedTuple

import httpx
import promql_parser
import pytest
import yaml
from job_context import clock as clock
from job_context import harness as harness
from processes import KEYS, query_rows, settle, started, until
from prometheus_client.parser import text_string_to_metric_families
from provider_server import refusing

from app.domain import calendar

FOLDER = Path(__file__).parents[2] / "docs" / "operate"
PAGE = (FOLDER / "alerts.md").read_text()
GROUPS = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
RULES = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}

# The labels that Prometheus itself adds to every series.
PROMETHEUS = {"job", "instance"}


class Selected(NamedTuple):
    """A series that a rule reads, and the conditions on its labels."""

    name: str
    matchers: dict[str, str]


def selected(rule: str) -> list[Selected]:
    """Return the series that a rule reads."""
    series: list[Selected] = []

    def collect(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            assert all(one.op == promql_parser.MatchOp.Equal for one in node.matchers.matchers), (
                rule
            )
            series.append(
                Selected(node.name, {one.name: one.value for one in node.matchers.matchers})
            )

    promql_parser.walk(promql_parser.parse(RULES[rule]["expr"]), collect)
    return series


@pytest.fixture
async def samples(harness, database, pool, tmp_path) -> list[tuple[str, dict[str, str]]]:
    """
    The metrics of a process that serves and works: it has a batch, and this week's Monday has
    failed.
    """
    await harness.make_batch()
    async with pool.connection() as conn:
        await conn.execute(
            "INSERT INTO timestamps "
            "(id, seq, hash, kind, status, authority, at, received_at, proof) "
            "SELECT gen_random_uuid(), seq, hash, 'OPENTIMESTAMPS', 'PENDING', "
            "'https://a.example', at, at, 'x' FROM journal LIMIT 1"
        )
    await settle(pool)
    with refusing() as unreachable:
        there = {
            "OPENAI_BASE_URL": unreachable,
            "ALPHA_VANTAGE_BASE_URL": unreachable,
            "DATABASE_URL": database,
            **KEYS,
        }
        with started("serve", cwd=tmp_path, says="Serving GraphQL at ", **there) as server:
            until(lambda: query_rows(database, "SELECT FROM operations.upkeep"), 60)
            text = httpx.get(f"{server.address}/metrics", timeout=30).text
    families = list(text_string_to_metric_families(text))
    return [(sample.name, sample.labels) for family in families for sample in family.samples]


def test_every_rule_reads_series_that_exist(samples):
    """Every series exists, with every value of a label that a rule selects or groups by."""
    labels = {
        name: set().union(*(of for other, of in samples if other == name)) for name, _ in samples
    }
    for alert, rule in RULES.items():
        read = selected(alert)
        assert read, alert
        for one in read:
            matching = [
                of
                for name, of in samples
                if name == one.name and one.matchers.items() <= of.items()
            ]
            assert matching, f"{alert} reads {one}, which no process says"
        shown_by = re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
        grouped_by = [
            label
            for by in re.findall(r"(?:by|on) \((.*?)\)", rule["expr"])
            for label in by.split(", ")
            if label
        ]
        assert {*shown_by, *grouped_by} <= PROMETHEUS.union(*(labels[one.name] for one in read)), (
            alert
        )


def test_every_alert_has_its_section():
    """
    Each section has an alert, too. It says what the alert means, what to look at, and what to do.
    """
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    sections = {
        section.split("\n")[0]: section
        for section in sections
        if not section.startswith("Setting it up")
    }
    assert sections.keys() == RULES.keys()
    for alert, section in sections.items():
        assert re.search(r"^Look( and do)?: ", section, re.MULTILINE), alert
        assert re.search(r"^(Do|Look and do): ", section, re.MULTILINE), alert


@pytest.mark.parametrize("alert", RULES)
def test_every_rule_is_complete(alert):
    """It has a valid expression, a severity, a sentence, and a link to the page."""
    rule = RULES[alert]
    promql_parser.parse(rule["expr"])
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["runbook"] == f"alerts.md#{alert.lower()}"
    assert re.fullmatch(r"\d+[mh]", rule.get("for", "1m"))


@pytest.mark.parametrize("monday", [date(2026, 1, 5), date(2026, 7, 6)], ids=["winter", "summer"])
def test_the_alert_of_a_failed_monday_fires_on_that_monday(monday):
    """The alert fires by ten in New York and until midnight, and never for last week's Monday."""
    when = RULES["MondayFailed"]["expr"].partition("and on () ")[2].replace("on () ", "")
    for hours in range(7 * 24):
        at = datetime.combine(monday, time(0), UTC) + timedelta(hours=hours)
        expression = when.replace("day_of_week()", str(at.isoweekday() % 7)).replace(
            "hour()", str(at.hour)
        )
        fires = eval(expression)
        assert not fires or calendar.latest_run_date(at) == monday, at
        if (
            calendar.due_at(monday) + timedelta(hours=1)
            <= at
            < calendar.from_new_york(monday + timedelta(days=1), time(0))
        ):
            assert fires, at


def test_the_page_names_metrics_that_exist(samples):
    """This includes metrics that no rule reads."""
    named = set(re.findall(r"alpha_monday_\w+", PAGE))
    assert named
    assert named <= {name for name, _ in samples}

"""Settings: defaults, error messages, and that secrets are never shown."""

import json
import os
import pprint
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import msgspec
import pytest
from dynaconf import default_settings
from rich.pretty import pretty_repr

from app.core import cores, settings
from app.errors import ConfigurationError
from app.providers import llm

SECRETS = {
    "DATABASE_URL": "postgresql://user:first-secret@db.example:5432/alpha",
    "QUEUE_DATABASE_URL": "postgresql://user:second-secret@db.example:5433/alpha",
    "API_DATABASE_URL": "postgresql://reader:seventh-secret@db.example:5432/alpha",
    "MIGRATE_DATABASE_URL": "postgresql://owner:eighth-secret@db.example:5432/alpha",
    "OPENAI_API_KEY": "sk-third-secret",
    "ALPHA_VANTAGE_API_KEY": "FOURTH-secret",
    "ALERT_WEBHOOK_URL": "https://hooks.example/fifth-secret",
    "HEARTBEAT_URL": "https://ping.example/?key=sixth-secret",
    "HEAD_REPOSITORY": "https://user:ninth-secret@git.example/owner/heads.git",
}
QUEUE = "postgresql://localhost/alpha"
USUAL = json.loads(json.dumps(msgspec.structs.asdict(settings.load({}))))


def test_defaults():
    """Every setting has a default, as listed here."""
    assert msgspec.structs.asdict(settings.load({})) == {
        "database_url": "",
        "queue_database_url": "",
        "api_database_url": "",
        "migrate_database_url": "",
        "database_pooled": False,
        "api_connections": None,
        "host": "127.0.0.1",
        "port": 8080,
        "log_level": "INFO",
        "public_url": "",
        "cors_allow_origins": (),
        "trusted_address_header": "",
        "openai_api_key": "",
        "openai_model": "gpt-5.4-mini",
        "openai_base_url": "",
        "openai_temperature": None,
        "openai_timeout": 180.0,
        "series_file": "",
        "alpha_vantage_api_key": "",
        "alpha_vantage_base_url": "",
        "alpha_vantage_per_second": 1,
        "alpha_vantage_per_minute": 5,
        "alpha_vantage_per_day": 25,
        "benchmark_symbol": "SPY",
        "benchmarks": (),
        "market_closed_days": (),
        "timestamp_urls": (),
        "timestamp_roots": "",
        "ots_calendars": (),
        "ots_hosts": (
            "alice.btc.calendar.opentimestamps.org",
            "bob.btc.calendar.opentimestamps.org",
            "finney.calendar.eternitywall.com",
            "btc.calendar.catallaxy.com",
        ),
        "alert_webhook_url": "",
        "heartbeat_url": "",
        "head_repository": "",
        "head_branch": "main",
    }


def test_a_client_without_settings_waits_as_long():
    """The client's default timeout equals the setting's."""
    assert settings.load({}).openai_timeout == llm.DEFAULT_TIMEOUT_SECONDS


def test_the_file_names_every_setting():
    """app/core/settings.toml has exactly the settings that exist."""
    file = Path(settings.__file__).with_name("settings.toml")
    names = msgspec.toml.decode(file.read_bytes()).keys()
    assert [name.lower() for name in names] == list(settings.Settings.__struct_fields__)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        (
            "DATABASE_URL",
            "postgresql://u:p%40ss@h:5432/d?sslmode=require",
            "postgresql://u:p%40ss@h:5432/d?sslmode=require",
        ),
        ("DATABASE_URL", "host=/run/postgres dbname=alpha", "host=/run/postgres dbname=alpha"),
        ("DATABASE_URL", "host=/run/postgres password=a/b@c", "host=/run/postgres password=a/b@c"),
        ("DATABASE_URL", "postgresql://h/d?user=u@provider", "postgresql://h/d?user=u@provider"),
        ("PUBLIC_URL", "https://alpha-monday.example/", "https://alpha-monday.example/"),
        ("QUEUE_DATABASE_URL", QUEUE, QUEUE),
        ("DATABASE_POOLED", "false", False),
        ("API_CONNECTIONS", "1", 1),
        ("API_CONNECTIONS", " 4 ", 4),
        ("API_CONNECTIONS", "100", 100),
        ("HOST", "0.0.0.0", "0.0.0.0"),
        ("HOST", "::", "::"),
        ("PORT", "0", 0),
        ("PORT", " 65535 ", 65535),
        ("LOG_LEVEL", "WARNING", "WARNING"),
        ("CORS_ALLOW_ORIGINS", "*", ("*",)),
        (
            "CORS_ALLOW_ORIGINS",
            "https://a.example , http://b.example:81",
            ("https://a.example", "http://b.example:81"),
        ),
        ("OPENAI_API_KEY", "sk-proj_123", "sk-proj_123"),
        ("OPENAI_MODEL", "llama3.2:3b", "llama3.2:3b"),
        ("OPENAI_BASE_URL", "http://localhost:11434/v1", "http://localhost:11434/v1"),
        ("OPENAI_TEMPERATURE", "0", 0.0),
        ("OPENAI_TEMPERATURE", "0.7", 0.7),
        ("OPENAI_TEMPERATURE", "2", 2.0),
        ("OPENAI_TIMEOUT", "1800", 1800.0),
        ("OPENAI_TIMEOUT", " 0.5 ", 0.5),
        ("OPENAI_TIMEOUT", "6e1", 60.0),
        ("ALPHA_VANTAGE_API_KEY", "ABC123", "ABC123"),
        ("ALPHA_VANTAGE_BASE_URL", "http://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("ALPHA_VANTAGE_PER_SECOND", "5", 5),
        ("ALPHA_VANTAGE_PER_MINUTE", "75", 75),
        ("ALPHA_VANTAGE_PER_DAY", "100000", 100_000),
        ("BENCHMARK_SYMBOL", "BRK.B", "BRK.B"),
        ("BENCHMARKS", "SPY", ("SPY",)),
        ("BENCHMARKS", "SPY , RSP", ("SPY", "RSP")),
        ("BENCHMARKS", "SPY,RSP,BRK.B,QQQ,IWM", ("SPY", "RSP", "BRK.B", "QQQ", "IWM")),
        ("ALERT_WEBHOOK_URL", "https://hooks.example/T0/B0?x=1", "https://hooks.example/T0/B0?x=1"),
        ("ALERT_WEBHOOK_URL", "http://[::1]:9000/", "http://[::1]:9000/"),
        ("HEARTBEAT_URL", "http://user:word@127.0.0.1:9000", "http://user:word@127.0.0.1:9000"),
        ("HEAD_REPOSITORY", "/srv/the heads.git", "/srv/the heads.git"),
        ("HEAD_REPOSITORY", "git@git.example:o/heads.git", "git@git.example:o/heads.git"),
        ("HEAD_REPOSITORY", "https://u:t@git.example/h.git", "https://u:t@git.example/h.git"),
        ("HEAD_BRANCH", "heads/of.a_record-1", "heads/of.a_record-1"),
        ("MARKET_CLOSED_DAYS", "2025-01-09", (date(2025, 1, 9),)),
        ("MARKET_CLOSED_DAYS", "2025-01-09, 2027-03-01", (date(2025, 1, 9), date(2027, 3, 1))),
    ],
)
def test_values(name, text, value):
    """A text is converted to the setting's type; white space around it does not count."""
    assert getattr(settings.load({"DATABASE_URL": QUEUE, name: text}), name.lower()) == value


# The cases: neither setting, one of the two, both with the same benchmark.
@pytest.mark.parametrize(
    ("environment", "benchmark", "further"),
    [
        ({}, "SPY", ()),
        ({"BENCHMARK_SYMBOL": "VOO"}, "VOO", ()),
        ({"BENCHMARKS": "VOO"}, "VOO", ()),
        ({"BENCHMARKS": "VOO,RSP,IWM"}, "VOO", ("RSP", "IWM")),
        ({"BENCHMARKS": "VOO,RSP", "BENCHMARK_SYMBOL": "VOO"}, "VOO", ("RSP",)),
        ({"BENCHMARKS": "RSP", "BENCHMARK_SYMBOL": ""}, "RSP", ()),
        ({"BENCHMARKS": "", "BENCHMARK_SYMBOL": "RSP"}, "RSP", ()),
    ],
)
def test_the_first_benchmark_is_the_benchmark(environment, benchmark, further):
    """BENCHMARKS names the benchmark first; without it, BENCHMARK_SYMBOL names it."""
    loaded = settings.load(environment)
    assert (loaded.benchmark_symbol, loaded.further_benchmarks) == (benchmark, further)


@pytest.mark.parametrize(
    ("benchmark", "benchmarks"),
    [("RSP", "SPY,RSP"), ("SPY", "RSP,SPY"), ("SPY", "VOO"), ("BRK.B", "SPY"), ("VOO", "SPY,RSP")],
)
def test_two_settings_with_different_benchmarks(benchmark, benchmarks):
    """Both settings, with different benchmarks, are refused; the message says what to do."""
    with pytest.raises(ConfigurationError) as refused:
        settings.load({"BENCHMARK_SYMBOL": benchmark, "BENCHMARKS": benchmarks})
    assert str(refused.value) == (
        "BENCHMARK_SYMBOL and BENCHMARKS name different benchmarks: the first ticker of BENCHMARKS "
        "is the benchmark. Unset BENCHMARK_SYMBOL, or write its ticker first in BENCHMARKS, for "
        "example BENCHMARKS=SPY,RSP"
    )


@pytest.mark.parametrize("text", ["", " ", "\t\n"])
def test_an_empty_text_is_not_set(text):
    """An empty variable counts as not set."""
    names = [name.upper() for name in settings.Settings.__struct_fields__]
    assert settings.load(dict.fromkeys(names, text)) == settings.load({})


A_DATABASE = (
    "must be a Postgres address (in a password, write @ as %40 and / as %2F), for example "
    "{}=postgresql://user:password@host:5432/alpha_monday"
)
SECONDS = "must be a number of seconds above 0 and up to 1800, for example {}=180"
CONNECTIONS = "must be a whole number of connections from 1 to 100, for example {}=4"
NOT_A_NUMBER_OF_CONNECTIONS = (
    "0",
    "-1",
    "101",
    "2.5",
    "many",
    "nan",
    "inf",
    "1e9",
    "４",
    "0x4",
    "4 connections",
    "auto",
)
A_KEY = "must be the key that the provider gave you, for example {}=sk-abc123"
AN_ADDRESS = "must be an http or https address, for example {}="
A_LIMIT = "must be a whole number of requests from 1 to 100000, for example {}=5"
A_RECEIVER = "must be an http or https address with a host name, for example {}=https://"
A_PORT = "has a port that is not a number from 1 to 65535, for example {}=https://"
A_PLACE = (
    "must be an http or https address without ? and #, for example {}=https://alpha-monday.example"
)
DATES = "must be dates with commas between them, for example {}=2025-01-09,2027-03-01"
A_HEADER = (
    "must be the name of the header (other than Forwarded) in which your proxy writes a client's "
    "address, "
    "for example {}=Fly-Client-IP"
)
A_REPOSITORY = (
    "must be the address of a git repository: https://, http://, ssh://, git@host:path, or an "
    "absolute path, for example {}=https://user:token@git.example.org/owner/heads.git"
)
A_BRANCH = (
    "must be the name of a branch, of letters, digits and the characters . _ / -, for example "
    "{}=main"
)
INVALID_BRANCHES = (
    "-f",
    "--force",
    "a b",
    "a..b",
    "a//b",
    "/a",
    "a/",
    "a/.b",
    "a./b",
    "a.",
    "a.lock",
    "a.lock/b",
    "a~1",
    "a:b",
    "é",
    "a" * 201,
)
ORIGINS = (
    "must be origins, without a / after the host, with commas between them, for example "
    "{}=https://example.org,https://example.com"
)
BENCHMARKS_MUST_BE = (
    "must be one to 5 tickers in capitals, with commas between them, for example {}=SPY,RSP"
)
WRONG_BENCHMARKS = (
    "spy,RSP",
    "SPY;RSP",
    "SPY RSP",
    "SPY,,RSP",
    "SPY,",
    ",SPY",
    "SPY,BRK-B",
    "SPY,RSP,QQQ,IWM,DIA,VTI",
)
TWICE = "has the same ticker twice: remove one of the two, for example {}=SPY,RSP"


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("DATABASE_URL", "s3cr3t", A_DATABASE),
        ("DATABASE_URL", "mysql://user:s3cr3t@host/alpha", A_DATABASE),
        ("QUEUE_DATABASE_URL", "user:s3cr3t@host", A_DATABASE),
        ("DATABASE_POOLED", "s3cr3t", "must be true or false, for example {}=true"),
        ("DATABASE_POOLED", "2", "must be true or false, for example {}=true"),
        *[("API_CONNECTIONS", text, CONNECTIONS) for text in NOT_A_NUMBER_OF_CONNECTIONS],
        *[
            ("TRUSTED_ADDRESS_HEADER", text, A_HEADER)
            for text in ("Forwarded", "FORWARDED", "X-Real-IP: 1", "A,B", "X_Y")
        ],
        ("PORT", "s3cr3t", "must be a port number, 0 to 65535, for example {}=8080"),
        ("PORT", "65536", "must be a port number, 0 to 65535, for example {}=8080"),
        ("PORT", "-1", "must be a port number, 0 to 65535, for example {}=8080"),
        ("PORT", "80.5", "must be a port number, 0 to 65535, for example {}=8080"),
        ("PORT", "８０", "must be a port number, 0 to 65535, for example {}=8080"),
        ("LOG_LEVEL", "LOUD", "must be DEBUG, INFO, WARNING or ERROR, for example {}=INFO"),
        ("CORS_ALLOW_ORIGINS", "s3cr3t.example", ORIGINS),
        ("CORS_ALLOW_ORIGINS", "https://a.example,,*", ORIGINS),
        ("CORS_ALLOW_ORIGINS", "https://a.example/", ORIGINS),
        ("CORS_ALLOW_ORIGINS", "https://a.example/s3cr3t", ORIGINS),
        ("PUBLIC_URL", "alpha-monday.example", A_PLACE),
        ("PUBLIC_URL", "https://alpha-monday.example/?s3cr3t", A_PLACE),
        ("PUBLIC_URL", "https://alpha-monday.example/#s3cr3t", A_PLACE),
        ("OPENAI_API_KEY", "s3cr3t key", A_KEY),
        ("OPENAI_API_KEY", "s3cr3t\nkey", A_KEY),
        ("OPENAI_BASE_URL", "localhost:11434", AN_ADDRESS + "http://localhost:11434/v1"),
        ("OPENAI_BASE_URL", "ftp://s3cr3t", AN_ADDRESS + "http://localhost:11434/v1"),
        *[
            (
                "OPENAI_BASE_URL",
                f"https://s3cr3t.example/v1{end}",
                f"must end before {endpoint}: the service itself adds /chat/completions, for "
                "example {}=http://localhost:11434/v1",
            )
            for end, endpoint in [
                ("/chat/completions", "/chat/completions"),
                ("/Chat/Completions//", "/chat/completions"),
                ("/chat/completions?key=s3cr3t", "/chat/completions"),
                ("/completions", "/completions"),
                ("/responses/", "/responses"),
                ("/messages", "/messages"),
                ("/embeddings", "/embeddings"),
                ("/models", "/models"),
            ]
        ],
        ("OPENAI_BASE_URL", "s3cr3t/v1/models", AN_ADDRESS + "http://localhost:11434/v1"),
        (
            "ALERT_WEBHOOK_URL",
            "hooks.example/s3cr3t",
            A_RECEIVER + "hooks.example.org/services/T0/B0/abc123",
        ),
        (
            "ALERT_WEBHOOK_URL",
            "ftp://hooks.example/s3cr3t",
            A_RECEIVER + "hooks.example.org/services/T0/B0/abc123",
        ),
        ("HEARTBEAT_URL", "https:///s3cr3t", A_RECEIVER + "ping.example.org/abc123"),
        ("HEARTBEAT_URL", "https://ping.example:0/s3cr3t", A_PORT + "ping.example.org/abc123"),
        ("HEARTBEAT_URL", "https://ping.example:s3cr3t/", A_PORT + "ping.example.org/abc123"),
        ("HEARTBEAT_URL", "https://u:s3cr3t/@h:0/", A_RECEIVER + "ping.example.org/abc123"),
        ("HEARTBEAT_URL", "https://[s3cr3t/", A_RECEIVER + "ping.example.org/abc123"),
        (
            "HEARTBEAT_URL",
            "https://ping.example/s3cr3t word",
            A_RECEIVER + "ping.example.org/abc123",
        ),
        ("OPENAI_TEMPERATURE", "2.1", "must be a number from 0 to 2, for example {}=0.7"),
        ("OPENAI_TEMPERATURE", "-0.1", "must be a number from 0 to 2, for example {}=0.7"),
        ("OPENAI_TEMPERATURE", "nan", "must be a number from 0 to 2, for example {}=0.7"),
        ("OPENAI_TEMPERATURE", "warm", "must be a number from 0 to 2, for example {}=0.7"),
        *[
            ("OPENAI_TIMEOUT", text, SECONDS)
            for text in ("0", "-1", "1801", "nan", "inf", "3 min", "180s", "1e9")
        ],
        ("ALPHA_VANTAGE_API_KEY", "s3cr3t key", A_KEY),
        ("ALPHA_VANTAGE_BASE_URL", "s3cr3t", AN_ADDRESS + "https://www.alphavantage.co"),
        ("ALPHA_VANTAGE_PER_SECOND", "0", A_LIMIT),
        ("ALPHA_VANTAGE_PER_MINUTE", "2.5", A_LIMIT),
        ("ALPHA_VANTAGE_PER_DAY", "many", A_LIMIT),
        ("ALPHA_VANTAGE_PER_DAY", "100001", A_LIMIT),
        ("BENCHMARK_SYMBOL", "spy", "must be a ticker in capitals, for example {}=SPY"),
        ("BENCHMARK_SYMBOL", "BRK-B", "must be a ticker in capitals, for example {}=SPY"),
        *(("BENCHMARKS", text, BENCHMARKS_MUST_BE) for text in WRONG_BENCHMARKS),
        *[("BENCHMARKS", text, TWICE) for text in ("SPY,SPY", "SPY,RSP,SPY", "SPY, RSP,QQQ ,RSP")],
        ("HEAD_REPOSITORY", "heads-s3cr3t.git", A_REPOSITORY),
        ("HEAD_REPOSITORY", "ext::sh -c s3cr3t", A_REPOSITORY),
        ("HEAD_REPOSITORY", "git://user:s3cr3t@git.example/h.git", A_REPOSITORY),
        ("HEAD_REPOSITORY", "https://u:s3cr3t@git.example:port/h.git", A_REPOSITORY),
        *[("HEAD_BRANCH", text, A_BRANCH) for text in INVALID_BRANCHES],
        ("MARKET_CLOSED_DAYS", "9 January 2025", DATES),
        ("MARKET_CLOSED_DAYS", "2025-02-30", DATES),
        ("MARKET_CLOSED_DAYS", "2025-01-09,", DATES),
        ("MARKET_CLOSED_DAYS", "2025-01-09 2025-01-10", DATES),
    ],
)
def test_refused_values(name, text, line):
    """
    The message is one line: the variable, what it must be, and an example, but never the value.
    """
    with pytest.raises(ConfigurationError) as refused:
        settings.load({name: text})
    assert str(refused.value) == f"{name} {line.format(name)}"
    assert "s3cr3t" not in str(refused.value)
    assert refused.value.__context__ is None  # Procrastinate's shell prints all of an error's chain


@pytest.mark.parametrize(
    ("number_of_cores", "connections"),
    [(0.1, 4), (1, 4), (2, 4), (2.5, 5), (3, 6), (3.9, 8), (4, 8), (64, 8), (float("inf"), 8)],
)
def test_the_default_number_of_the_api_s_connections(number_of_cores, connections):
    """Two for each core that the process may use, at least four and at most eight."""
    assert settings.api_connections_for(number_of_cores) == connections


def test_the_number_of_the_api_s_connections():
    """A number that is set overrides the number of cores."""
    assert settings.load({"API_CONNECTIONS": "3"}).api_pool_size == 3
    assert settings.load({}).api_pool_size == settings.api_connections_for(cores.available())


@pytest.mark.parametrize("password", ["s3/cret", "s3c@ret", "s3@c/ret", "53/c@ret"])
def test_an_address_torn_apart_by_its_password(password):
    """
    An address with an unencoded password is refused: messages would show a part of the password
    as the host or the port.
    """
    with pytest.raises(ConfigurationError) as refused:
        settings.load({"DATABASE_URL": f"postgresql://user:{password}@host/alpha_monday"})
    assert str(refused.value).startswith("DATABASE_URL must be a Postgres address")
    assert "ret" not in str(refused.value)


QUOTED = {
    "DATABASE_URL": "postgresql://u:s3cr3t@h:5432/d",
    "QUEUE_DATABASE_URL": "host=h password=s3cr3t",
    "API_DATABASE_URL": "postgresql://reader:s3cr3t@h:5432/d",
    "MIGRATE_DATABASE_URL": "postgresql://owner:s3cr3t@h:5432/d",
    "DATABASE_POOLED": "true",
    "API_CONNECTIONS": "4",
    "HOST": "127.0.0.1",
    "PORT": "8080",
    "LOG_LEVEL": "INFO",
    "PUBLIC_URL": "https://alpha-monday.example",
    "CORS_ALLOW_ORIGINS": "https://a.example,https://b.example",
    "TRUSTED_ADDRESS_HEADER": "Fly-Client-IP",
    "OPENAI_API_KEY": "sk-s3cr3t",
    "OPENAI_MODEL": "gpt-5.4-mini",
    "OPENAI_BASE_URL": "http://localhost:11434/v1",
    "OPENAI_TEMPERATURE": "0.7",
    "OPENAI_TIMEOUT": "180",
    "SERIES_FILE": "/etc/s3cr3t.toml",
    "ALPHA_VANTAGE_API_KEY": "s3cr3t",
    "ALPHA_VANTAGE_BASE_URL": "https://www.alphavantage.co",
    "ALPHA_VANTAGE_PER_SECOND": "1",
    "ALPHA_VANTAGE_PER_MINUTE": "5",
    "ALPHA_VANTAGE_PER_DAY": "25",
    "BENCHMARK_SYMBOL": "SPY",
    "BENCHMARKS": "SPY,RSP",
    "MARKET_CLOSED_DAYS": "2025-01-09,2027-03-01",
    "TIMESTAMP_URLS": "https://tsa.example/s3cr3t",
    "TIMESTAMP_ROOTS": "/etc/s3cr3t.pem",
    "OTS_CALENDARS": "https://a.pool.example,https://b.pool.example",
    "OTS_HOSTS": "alice.example,bob.example",
    "ALERT_WEBHOOK_URL": "https://hooks.example/s3cr3t",
    "HEARTBEAT_URL": "https://ping.example/s3cr3t",
    "HEAD_REPOSITORY": "https://user:s3cr3t@git.example/heads.git",
    "HEAD_BRANCH": "main",
}


def test_every_setting_is_tried_in_quotes():
    """The cases with quotes cover every setting, so a new setting needs one."""
    assert [name.lower() for name in QUOTED] == list(settings.Settings.__struct_fields__)


# The cases: quotes in a file of variables, which a shell removes, and Docker's --env-file and most
# platforms do not.
@pytest.mark.parametrize("quotes", ['""', "''", "``", "“”", "‘’", '"  "'], ids=ascii)
@pytest.mark.parametrize("name", QUOTED)
def test_quotes_around_a_value(name, quotes):
    """For every setting, the message says what to remove, and does not show the value."""
    half = len(quotes) // 2
    with pytest.raises(
        ConfigurationError, match=f"^{name} has quotes around its value: remove the quotes, "
    ) as refused:
        settings.load({name: f"{quotes[:half]}{QUOTED[name]}{quotes[half:]}"})
    assert "s3cr3t" not in str(refused.value)
    assert refused.value.__context__ is None


# The cases: an address that was copied from elsewhere, or only in part.
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('"postgresql://u:s3cr3t@h/d', "has quotes around its value: remove the quotes"),
        (
            "postgresql+asyncpg://u:s3cr3t@h/d",
            "must begin with postgresql://, and not with postgresql+asyncpg:",
        ),
        (
            "postgresql+psycopg://u:s3cr3t@h/d",
            "must begin with postgresql://, and not with postgresql+psycopg:",
        ),
        (
            "jdbc:postgresql://h/d?password=s3cr3t",
            "must begin with postgresql://, and not with jdbc:postgresql:",
        ),
        ("Postgresql://u:s3cr3t@h/d", "must begin with postgresql://, and not with Postgresql:"),
        ("postgresql:/u:s3cr3t@h/d", "must begin with postgresql:// (two slashes)"),
        ("postgresql://u:s3cr3t @h/d", "has a space or a line break in it"),
        ("postgresql://u:s3cr3t@h /d", "has a space or a line break in it"),
        ("postgresql://u:s3cr3t@h/d\npostgresql://v@h/d", "has a space or a line break in it"),
        ("DATABASE_URL=postgresql://u:s3cr3t@h/d", "contains its own name: remove `DATABASE_URL=`"),
        (
            "export DATABASE_URL=postgresql://u:s3cr3t@h/d",
            "contains its own name: remove `DATABASE_URL=`",
        ),
        (
            "DATABASE_URL = postgresql://u:s3cr3t@h/d",
            "contains its own name: remove `DATABASE_URL=`",
        ),
        (
            "database_url: postgresql://u:s3cr3t@h/d",
            "contains its own name: remove `DATABASE_URL=`",
        ),
        ("psql postgresql://u:s3cr3t@h/d", "contains a command: remove `psql`"),
        ("psql 'postgresql://u:s3cr3t@h/d?sslmode=require'", "contains a command: remove `psql`"),
        ("postgresql://u:s3cr3t@h:99999/d", "has a port that is not a number from 1 to 65535"),
        ("postgresql://u:s3cr3t@h:0/d", "has a port that is not a number from 1 to 65535"),
        ("postgresql://u:s3cr3t@h:port/d", "has a port that is not a number from 1 to 65535"),
        ("postgresql://u:s3cr3t@h,i:99999/d", "has a port that is not a number from 1 to 65535"),
        ("postgresql://u:s3cr3t@h:５４３２/d", "has a port that is not a number from 1 to 65535"),
        ("postgresql://u:s3cr3t@h:٥٤٣٢/d", "has a port that is not a number from 1 to 65535"),
        ("postgresql://u:s3cr3t@h:5_432/d", "has a port that is not a number from 1 to 65535"),
        (
            "postgresql://u:s3cr3t%@h/d",
            "has a % that does not begin a valid code such as %40: write %25 for a % in a password",
        ),
        (
            "postgresql://u:%s3cr3t@h/d",
            "has a % that does not begin a valid code such as %40: write %25 for a % in a password",
        ),
        (
            "postgresql://u:s3cr3t@h/d?password=s3cr3t%zz",
            "has a % that does not begin a valid code such as %40",
        ),
        (
            "postgresql://u:s3cr3t@h/d?schema=public",
            "has a parameter that Postgres's library does not know, schema:",
        ),
        ("postgresql://u@h/d?s3cr3t=x@y", "must be a Postgres address"),
        ("mysql://u:s3cr3t@h/d", "must be a Postgres address"),
    ],
)
def test_addresses_that_were_copied(text, says):
    """The message names the mistake in a copied address without showing the address."""
    with pytest.raises(ConfigurationError) as refused:
        settings.load({"DATABASE_URL": text})
    assert str(refused.value).startswith(f"DATABASE_URL {says}")
    assert "s3cr3t" not in str(refused.value)


# The class of faults: what a page, a chat or a file of variables adds to a value unnoticed:
# characters without width at either end or within, a typographer's dash, a comment.
@pytest.mark.parametrize("name", QUOTED)
@pytest.mark.parametrize(
    ("before", "after"),
    [("\ufeff", ""), ("", "\u200b"), ("\u2060", "\u200e"), ("", "\u00ad")],
    ids=ascii,
)
def test_marks_that_cannot_be_seen(name, before, after):
    """For every setting, the message names the invisible character, and does not show the value."""
    number = rf"U\+{ord(before or after):04X}"
    with pytest.raises(
        ConfigurationError, match=rf"^{name} contains an invisible character, {number}"
    ) as refused:
        settings.load({name: f"{before}{QUOTED[name]}{after}"})
    assert "s3cr3t" not in str(refused.value)


@pytest.mark.parametrize("name", [name for name in QUOTED if "DATABASE_URL" not in name])
@pytest.mark.parametrize(
    ("added", "says"),
    [
        ("\u2011", r"contains a dash other than -, U\+2011:"),
        ("\u2013", r"contains a dash other than -, U\+2013:"),
        ("\u2212", r"contains a dash other than -, U\+2212:"),
        (" # mine", "contains a comment: remove the # and everything after it"),
        ("\t#mine", "contains a comment: remove the # and everything after it"),
    ],
    ids=ascii,
)
def test_dashes_and_comments(name, added, says):
    """
    Copied dashes and comments are refused at the start: some settings accept any text and would
    fail on Monday, and others would be refused for a misleading reason.
    """
    with pytest.raises(ConfigurationError, match=f"^{name} {says}") as refused:
        settings.load({name: f"{QUOTED[name]}{added}"})
    assert "s3cr3t" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["OPENAI_BASE_URL", "ALPHA_VANTAGE_BASE_URL", "PUBLIC_URL", "ALERT_WEBHOOK_URL"]
)
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("http://h:99999", "has a port that is not a number from 1 to 65535, for example "),
        ("http://h:114340/v1", "has a port that is not a number from 1 to 65535, for example "),
        ("http://h:abc/v1", "has a port that is not a number from 1 to 65535, for example "),
        ("http://[::1]:0/", "has a port that is not a number from 1 to 65535, for example "),
        ("http://h:0/", "has a port that is not a number from 1 to 65535, for example "),
        ("http://:80", "must be an http or https address"),
        ("http://[::1", "must be an http or https address"),
        ("https://", "must be an http or https address"),
        ("http://h/ x", "must be an http or https address"),
    ],
)
def test_an_address_that_could_never_be_requested(name, text, says):
    """
    An invalid address is refused at the start, and not on Monday at nine or when a page is
    shown.
    """
    with pytest.raises(ConfigurationError, match=f"^{name} {says}"):
        settings.load({name: text})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("OPENAI_BASE_URL", "https://a.b/models/v1"),
        ("OPENAI_BASE_URL", "https://a.b/my-models"),
        ("OPENAI_BASE_URL", "https://models"),
        ("OPENAI_BASE_URL", "https://a.b/openai?x=/models"),
        ("ALPHA_VANTAGE_BASE_URL", "https://a.b/models"),
        ("PUBLIC_URL", "https://a.b/messages"),
        ("ALERT_WEBHOOK_URL", "https://a.b/responses"),
    ],
)
def test_addresses_that_are_no_endpoint_of_a_model(name, text):
    """Only the address of the model's server may not end with an endpoint."""
    assert getattr(settings.load({name: text}), name.lower()) == text


@pytest.mark.parametrize("name", ["QUEUE_DATABASE_URL", "API_DATABASE_URL", "MIGRATE_DATABASE_URL"])
@pytest.mark.parametrize("unset", [{}, {"DATABASE_URL": ""}, {"DATABASE_URL": "  "}])
def test_every_address_is_of_the_database_of_the_record(unset, name):
    """
    No other address may be set without DATABASE_URL: commands would change that database, while
    a service would use the embedded one.
    """
    with pytest.raises(ConfigurationError, match=rf"^DATABASE_URL must be set when {name} is"):
        settings.load({name: QUEUE, **unset})


def test_quotes_within_an_address_stay():
    """In libpq's own syntax a password with a space is quoted, also at the end of the address."""
    assert (
        settings.load({"DATABASE_URL": "host=h password='a b'"}).database_url
        == "host=h password='a b'"
    )


def test_the_examples_are_good_values():
    """Every example in a message is a valid value."""
    # Their example cannot be in a message, because every text without control characters is valid.
    any_text = {"HOST", "OPENAI_MODEL", "SERIES_FILE", "TIMESTAMP_ROOTS"}
    for field in settings.Settings.__struct_fields__:
        name = field.upper()
        if name in any_text:
            continue
        with pytest.raises(ConfigurationError) as refused:
            settings.load({name: "not this, surely"})
        example = str(refused.value).rsplit("for example ", 1)[1].removeprefix(f"{name}=")
        others = {
            "DATABASE_URL": QUEUE,
            "QUEUE_DATABASE_URL": QUEUE,
            "TIMESTAMP_ROOTS": "/etc/roots.pem",
        }
        assert settings.load({**others, name: example})


@pytest.mark.parametrize("name", ["TIMESTAMP_URLS", "OTS_CALENDARS"])
@pytest.mark.parametrize(
    "address",
    [
        "https://user@tsa.example/tsr",
        "https://user:s3cr3t@tsa.example/tsr",
        "https://tsa.example/tsr?key=s3cr3t",
        "https://tsa.example/tsr#s3cr3t",
        "https://tsa.example/tsr,https://other.example/?s3cr3t",
        "https://tsa.example:0/tsr",
        "https://tsa.example:s3cr3t/tsr",
        "https:///s3cr3t",
        "ftp://tsa.example/s3cr3t",
        "s3cr3t",
        "https://tsa.example/" + "s3cr3t" * 80,
        "https://tsa.example/s3cr3t" + "é" * 200,
        "https://s3cr3t." + "ö" * 200,
        "https://tsa.example\\@evil.example/s3cr3t",
    ],
)
def test_an_address_that_is_stored_with_proofs_has_no_secret(name, address):
    """A user name, a query and a fragment are refused in one line, which does not show them."""
    with pytest.raises(ConfigurationError) as refused:
        settings.load({name: address, "TIMESTAMP_ROOTS": "/etc/roots.pem"})
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"{name} must be http or https addresses without a user name, ? and #")
    assert "s3cr3t" not in line


@pytest.mark.parametrize("name", ["TIMESTAMP_URLS", "OTS_CALENDARS"])
@pytest.mark.parametrize(
    "twin",
    [
        "https://tsa.example/s3cr3t",
        "HTTPS://TSA.example/s3cr3t",
        "https://tsa.example:443/s3cr3t",
        "https://other.example, https://other.example/",
        "http://[::1]:80/x,http://[::1]/x",
    ],
)
def test_a_service_that_is_listed_twice(name, twin):
    """It is refused, in each of its spellings: it would seem to be two services."""
    addresses = f"https://tsa.example/s3cr3t,{twin}"
    with pytest.raises(ConfigurationError) as refused:
        settings.load({name: addresses, "TIMESTAMP_ROOTS": "/etc/roots.pem"})
    line = str(refused.value)
    assert line.startswith(f"{name} has the same address twice: remove one of the two, for example")
    assert "s3cr3t" not in line


@pytest.mark.parametrize(
    "twin",
    [
        "http://tsa.example/tsr",
        "https://tsa.example:444/tsr",
        "https://tsa.example/TSR",
        "https://tsa.example",
    ],
)
def test_two_addresses_of_one_host(twin):
    """Another scheme, port or path is another service."""
    for name in ("TIMESTAMP_URLS", "OTS_CALENDARS"):
        addresses = f"https://tsa.example/tsr,{twin}"
        assert settings.load({name: addresses, "TIMESTAMP_ROOTS": "/etc/roots.pem"})


def test_a_slash_at_the_end_of_an_address():
    """A calendar has the same address with it; an authority may have another one."""
    addresses = "https://a.example/x,https://a.example/x/"
    with pytest.raises(ConfigurationError, match=r"^OTS_CALENDARS has the same address twice"):
        settings.load({"OTS_CALENDARS": addresses})
    loaded = settings.load({"TIMESTAMP_URLS": addresses, "TIMESTAMP_ROOTS": "/etc/roots.pem"})
    assert len(loaded.timestamp_urls) == 2


def test_timestamps_need_pinned_roots():
    """Without roots no token could be verified, so a missing file is noticed at the start."""
    with pytest.raises(
        ConfigurationError, match=r"^TIMESTAMP_ROOTS must be set when TIMESTAMP_URLS is set"
    ):
        settings.load({"TIMESTAMP_URLS": "https://tsa.example/tsr"})
    loaded = settings.load(
        {
            "TIMESTAMP_URLS": "https://tsa.example/tsr, http://127.0.0.1:8090/timestamp",
            "TIMESTAMP_ROOTS": "/etc/roots.pem",
        }
    )
    assert loaded.timestamp_urls == (
        "https://tsa.example/tsr",
        "http://127.0.0.1:8090/timestamp",
    )


def test_a_pooled_database_needs_a_direct_connection():
    """LISTEN and the queue's search_path do not work through PgBouncer."""
    with pytest.raises(
        ConfigurationError,
        match=r"^QUEUE_DATABASE_URL must be set when DATABASE_POOLED is true: .*",
    ):
        settings.load({"DATABASE_POOLED": "true", "DATABASE_URL": QUEUE})
    pooled = settings.load(
        {"DATABASE_POOLED": "true", "DATABASE_URL": QUEUE, "QUEUE_DATABASE_URL": "host=direct"}
    )
    assert (pooled.database_pooled, pooled.queue_address) == (True, "host=direct")


def test_the_queue_uses_the_database_by_default():
    """QUEUE_DATABASE_URL defaults to DATABASE_URL."""
    assert settings.load({"DATABASE_URL": QUEUE}).queue_address == QUEUE
    assert settings.load({}).queue_address == ""


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        pytest.param(
            {},
            "OPENAI_API_KEY and ALPHA_VANTAGE_API_KEY must be set to the keys that the "
            "providers gave you, "
            "for example OPENAI_API_KEY=abc123.",
            id="both",
        ),
        pytest.param(
            {"ALPHA_VANTAGE_API_KEY": "k"},
            "OPENAI_API_KEY must be set to the key that the provider gave you, for example "
            "OPENAI_API_KEY=abc123.",
            id="the model's",
        ),
        pytest.param(
            {"OPENAI_API_KEY": "k", "ALPHA_VANTAGE_API_KEY": " "},
            "ALPHA_VANTAGE_API_KEY must be set to the key that the provider gave you, "
            "for example ALPHA_VANTAGE_API_KEY=abc123.",
            id="the prices'",
        ),
    ],
)
def test_missing_keys(environment, line):
    """The message names all missing keys at once."""
    with pytest.raises(ConfigurationError) as refused:
        settings.require_keys(settings.load(environment))
    assert str(refused.value) == f"{line} (`alpha-monday rehearse` needs none.)"


def test_keys_that_are_there():
    """With both keys there is no error."""
    settings.require_keys(settings.load({"OPENAI_API_KEY": "a", "ALPHA_VANTAGE_API_KEY": "b"}))


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(repr, id="repr"),
        pytest.param(str, id="str"),
        pytest.param("{}".format, id="format"),
        pytest.param("{0!a}".format, id="ascii"),
        pytest.param(pprint.pformat, id="pprint"),
        pytest.param(pretty_repr, id="rich"),
        pytest.param(lambda value: repr([value]), id="within a list"),
    ],
)
def test_secrets_never_print(shown):
    """However settings are printed, no key and no password is shown."""
    text = shown(settings.load(SECRETS))
    assert "secret" not in text
    assert "***" in text
    assert "gpt-5.4-mini" in text


def test_secrets_of_the_log():
    """
    The log must not show the keys, the receivers' addresses, the part of these after the host, and
    the repository with its login.
    """
    hidden = settings.load(SECRETS).secret_texts
    assert {"sk-third-secret", "FOURTH-secret", "/fifth-secret", "/?key=sixth-secret"} < set(hidden)
    # The base64 of `user:ninth-secret`, as HTTP sends it, was computed with another program.
    assert {"ninth-secret", "dXNlcjpuaW50aC1zZWNyZXQ="} < set(hidden)
    assert len(hidden) == 10
    assert settings.load({}).secret_texts == ["", ""]


def from_the_environment(folder: Path | None = None, **variables: str) -> dict[str, object]:
    """
    Return the settings that a separate process reads from a real environment, in `folder` if it
    is given.
    """
    script = (
        "import json, msgspec; from app.core import settings; "
        "print(json.dumps(msgspec.to_builtins(msgspec.structs.asdict(settings.load()))))"
    )
    clean = {
        name: value
        for name, value in os.environ.items()
        if name.lower() not in settings.Settings.__struct_fields__
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=clean | variables,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_environment():
    """Variables override the file; unknown and empty variables do not count."""
    read = from_the_environment(
        PORT="9000", HOST="", ALPHA_VANTAGE_PER_DAY="500", UNRELATED="x", MARKET_CLOSED_DAYS=""
    )
    assert read == {**USUAL, "port": 9000, "alpha_vantage_per_day": 500}


@pytest.mark.parametrize(
    ("environment", "chosen"),
    [
        pytest.param({}, False, id="absent"),
        pytest.param({"PORT": ""}, False, id="empty"),
        pytest.param({"PORT": " "}, False, id="blank"),
        pytest.param({"HOST": "::1"}, False, id="another one"),
        pytest.param({"PORT": "9000"}, True, id="set"),
        pytest.param({"PORT": "8080"}, True, id="set to the default"),
    ],
)
def test_whether_a_setting_is_set(monkeypatch, environment, chosen):
    """
    An empty text means not set, in the file and in the environment; the default's own value,
    written down, counts as set.
    """
    assert settings.is_set("PORT", environment) is chosen
    for name in settings.Settings.__struct_fields__:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    assert settings.is_set("PORT") is chosen


ODD_TEXTS = [
    {
        "OPENAI_API_KEY": "00123456789",
        "ALPHA_VANTAGE_API_KEY": "1_000",
        "OPENAI_MODEL": "1.50",
        "HOST": "0x1F",
    },
    {
        "OPENAI_API_KEY": "1e5",
        "ALPHA_VANTAGE_API_KEY": "true",
        "OPENAI_MODEL": "it's 'quoted' within",
        "HOST": "2026-01-05T09:00:00Z",
    },
    {
        "OPENAI_API_KEY": "@int",
        "ALPHA_VANTAGE_API_KEY": "@secret",
        "OPENAI_MODEL": "@format {this.PORT}",
        "DATABASE_URL": "host=h password='@none ##x'",
    },
    {
        "OPENAI_API_KEY": '["a"]',
        "ALPHA_VANTAGE_API_KEY": "{a=1}",
        "OPENAI_MODEL": "@merge a=1",
        "HOST": "dynaconf_merge",
        "OPENAI_MODEL__A": "b",
        "AUTO_CAST_FOR_DYNACONF": "true",
    },
]


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param(ODD_TEXTS[0], id="digits"),
        pytest.param(ODD_TEXTS[1], id="texts that look like values"),
        pytest.param(ODD_TEXTS[2], id="texts that begin with an at sign"),
        pytest.param(ODD_TEXTS[3], id="texts that look like instructions"),
    ],
)
def test_texts_stay_as_they_stand(variables):
    """
    A key of digits is not converted to a number, and an at sign is no instruction, from a
    mapping and from a real environment.
    """
    ours = {
        name: text
        for name, text in variables.items()
        if name.lower() in settings.Settings.__struct_fields__
    }
    loaded, read = msgspec.structs.asdict(settings.load(ours)), from_the_environment(**variables)
    for name, text in ours.items():
        assert (loaded[name.lower()], read[name.lower()]) == (text, text)


OTHER = {name.upper(): "elsewhere" for name in settings.Settings.__struct_fields__}
AS_TOML = "".join(f'{name} = "elsewhere"\n' for name in OTHER)
AS_SECTIONS = "".join(
    f"[{section}]\n{AS_TOML}" for section in ("default", "development", "global", "main")
)
AS_DOTENV = "".join(f"{name}=elsewhere\n" for name in OTHER)
AS_HOOK = f"def post(settings=None):\n    return {OTHER!r}\n"
AS_MODULE = "".join(f"{name} = 'elsewhere'\n" for name in OTHER)
OPTIONS = [name for name in vars(default_settings) if name.endswith("_FOR_DYNACONF")]
# Dynaconf itself cannot be imported when these are something else: a number, and the name of a
# variable.
FIT_FOR_IMPORT = {"REDIS_PORT_FOR_DYNACONF": "1", "ENV_SWITCHER_FOR_DYNACONF": "PATH"}


@pytest.fixture(scope="module")
def a_copy(tmp_path_factory):
    """Copy what settings need of the package into a folder to which files can be added."""
    folder = tmp_path_factory.mktemp("copy")
    package = Path(settings.__file__).parents[1]
    shutil.copytree(
        package / "core", folder / "app/core", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(
        package / "domain", folder / "app/domain", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("__init__.py", "errors.py"):
        shutil.copy(package / name, folder / "app" / name)
    return folder


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({".env": AS_DOTENV}, id="a .env"),
        pytest.param(
            {"settings.toml": AS_TOML, "config/settings.toml": AS_TOML}, id="another settings.toml"
        ),
        pytest.param({"app/core/.env": AS_DOTENV}, id="a .env beside settings.toml"),
        pytest.param(
            {"settings.local.toml": AS_TOML, "app/core/settings.local.toml": AS_TOML},
            id="a local file",
        ),
        pytest.param(
            {".secrets.toml": AS_TOML, "app/core/.secrets.toml": AS_TOML}, id="a file of secrets"
        ),
        pytest.param(
            {"settings.yaml": "PORT: elsewhere", "app/core/settings.yaml": "PORT: elsewhere"},
            id="YAML",
        ),
        pytest.param(
            {"app/core/dynaconf_hooks.py": AS_HOOK, "dynaconf_hooks.py": AS_HOOK}, id="a hook"
        ),
    ],
)
def test_no_other_file_decides_a_setting(a_copy, files):
    """
    Only named variables and app/core/settings.toml decide a setting, and no other file that
    dynaconf finds.
    """
    for name, text in files.items():
        file = a_copy / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    try:
        read = from_the_environment(a_copy, PORT="9000", LOAD_DOTENV_FOR_DYNACONF="true")
    finally:
        for name in files:
            (a_copy / name).unlink()
    assert read == {**USUAL, "port": 9000}


def test_the_copy_is_what_is_read(a_copy):
    """The process reads the copied settings; otherwise the test above would prove nothing."""
    file = a_copy / "app/core/settings.toml"
    text = file.read_text()
    file.write_text(text.replace('PORT = "8080"', 'PORT = "8081"'))
    try:
        assert from_the_environment(a_copy) == {**USUAL, "port": 8081}
    finally:
        file.write_text(text)


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({f"DYNACONF_{name}": "elsewhere" for name in OTHER}, id="dynaconf's prefix"),
        pytest.param(
            {f"DYNACONF__{name}": "elsewhere" for name in OTHER},
            id="dynaconf's prefix and its separator",
        ),
        pytest.param({f"MAIN_{name}": "elsewhere" for name in OTHER}, id="the section's prefix"),
        pytest.param({name.lower(): "elsewhere" for name in OTHER}, id="small letters"),
        pytest.param({name.title(): "elsewhere" for name in OTHER}, id="some small letters"),
        pytest.param({f"{name}__x": "elsewhere" for name in OTHER}, id="a member of a setting"),
        pytest.param(
            {f"{name}.x": "elsewhere" for name in OTHER}, id="a dotted member of a setting"
        ),
        pytest.param({f"{name}___0": "elsewhere" for name in OTHER}, id="an item of a setting"),
        pytest.param(
            {name.replace("_", "__"): "elsewhere" for name in OTHER if "_" in name},
            id="two underscores",
        ),
        pytest.param(
            {name.replace("_", "."): "elsewhere" for name in OTHER if "_" in name}, id="dots"
        ),
        pytest.param({f" {name} ": "elsewhere" for name in OTHER}, id="blanks around the name"),
        pytest.param(dict.fromkeys(OTHER, ""), id="empty"),
        pytest.param(dict.fromkeys(OTHER, " \t"), id="blank"),
    ],
)
def test_no_other_variable_decides_a_setting(monkeypatch, variables):
    """
    Only named variables and app/core/settings.toml decide a setting, and no variable of a
    similar name.
    """
    assert settings.load(variables) == settings.load({})
    for name in OTHER:
        monkeypatch.delenv(name, raising=False)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    assert settings.load() == settings.load({})


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("true", id="switched on"),
        pytest.param("5", id="a number"),
        pytest.param("FILE", id="a file"),
        pytest.param("SECTIONS", id="a file with sections"),
        pytest.param('["MODULE"]', id="a list of modules"),
        pytest.param("@format {env[PATH]}", id="an instruction"),
    ],
)
def test_no_option_of_dynaconf_decides_a_setting(tmp_path, value):
    """
    Only named variables and app/core/settings.toml decide a setting, and no *_FOR_DYNACONF
    variable.
    """
    assert {
        "SETTINGS_FILE_FOR_DYNACONF",
        "AUTO_CAST_FOR_DYNACONF",
        "MERGE_ENABLED_FOR_DYNACONF",
    } < set(OPTIONS)
    for name, text in {
        "other.toml": AS_TOML,
        "sections.toml": AS_SECTIONS,
        "elsewhere.py": AS_MODULE,
    }.items():
        (tmp_path / name).write_text(text)
    places = {"FILE": tmp_path / "other.toml", "SECTIONS": tmp_path / "sections.toml"}
    text = str(places.get(value, value)).replace("MODULE", "elsewhere")
    older = {
        "SETTINGS_FILES_FOR_DYNACONF": text,
        "SETTINGS_MODULE": text,
        "DYNACONF_SETTINGS": text,
    }
    variables = {
        **dict.fromkeys(OPTIONS, text),
        **older,
        "LOAD_DOTENV_FOR_DYNACONF": text,
        **FIT_FOR_IMPORT,
    }
    odd = {"HOST": "0x1F", "OPENAI_MODEL": "@format {env[PATH]}", "OPENAI_API_KEY": "00123"}
    read = from_the_environment(tmp_path, **variables, **odd)
    assert read == {**USUAL, **{name.lower(): text for name, text in odd.items()}}


def test_no_error_carries_the_value():
    """Neither the error nor its causes contain the value, however they are printed."""
    with pytest.raises(ConfigurationError) as refused:
        settings.load({"OPENAI_API_KEY": "s3cr3t key", "DATABASE_URL": "s3cr3t"})
    error = refused.value
    assert (error.__context__, error.__cause__) == (None, None)
    assert "s3cr3t" not in repr(error.args) + str(vars(error))


def test_a_wrong_setting_is_one_line_on_the_terminal():
    """
    A command prints the name and what the value must be, without a traceback and without the
    value, and exits with a code.
    """
    done = subprocess.run(
        [Path(sys.executable).with_name("alpha-monday"), "serve"],
        env={**os.environ, "PORT": "s3cr3t"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "PORT must be a port number, 0 to 65535, for example PORT=8080" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "s3cr3t" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("m" * 201, "must be a model's name, on one line and of at most 200 characters"),
        ("gpt\n5", "must be a model's name, on one line and of at most 200 characters"),
        ("gpt\x1b[2J5", "must be a model's name, on one line and of at most 200 characters"),
        ("gpt\u202e5", "contains an invisible character, U+202E"),
        ("gpt\u20665", "contains an invisible character, U+2066"),
        ("gpt\u061c5", "contains an invisible character, U+061C"),
        ("gpt\u20285", "contains an invisible character, U+2028"),
    ],
)
def test_a_name_of_a_model_that_cannot_be_shown(model, says):
    """
    A model's name with control characters is refused: it is stored with every question and
    shown on pages.
    """
    with pytest.raises(ConfigurationError) as refused:
        settings.load({"OPENAI_MODEL": model})
    assert f"OPENAI_MODEL {says}" in str(refused.value)


def test_the_longest_name_of_a_model():
    """A model's name has at most two hundred characters."""
    assert settings.load({"OPENAI_MODEL": "m" * 200}).openai_model == "m" * 200

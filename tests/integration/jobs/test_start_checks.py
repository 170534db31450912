"""What a process refuses before it works: a renamed series, and series of an unsealed record."""

from datetime import timedelta
from pathlib import Path

import pytest
from commands import command
from job_context import ALPHA_VANTAGE_KEY, MONDAY, OPENAI_KEY, logged, new_york, run_attempt
from job_context import clock as clock
from provider_server import says
from record_server import make_unreadable
from sealing import unseal
from series_harness import CLAUDE, DICE, KEYS, MAIN, MODELS, TABLES, write_file
from series_harness import harness as harness
from series_harness import keys as keys
from series_harness import receiver as receiver

from app.core import series_file, settings
from app.errors import ConfigurationError
from jobs import in_force, queue, start_checks


def variables(harness, file: Path | str = "") -> dict[str, str]:
    """Return the settings of a process that works for the harness's record."""
    return {
        "DATABASE_URL": str(harness.context.pool.conninfo),
        "SERIES_FILE": str(file),
        "ALPHA_VANTAGE_API_KEY": ALPHA_VANTAGE_KEY,
        "OPENAI_BASE_URL": f"{harness.provider.url}/v1",
        "OPENAI_MODEL": MODELS[MAIN],
    }


async def refusal(harness, file: Path | str = "") -> str:
    """Return why a process with this file does not start; empty if it does."""
    configuration = settings.load(variables(harness, file))
    try:
        await start_checks.require_series(
            harness.context.pool, configuration, in_force.make(configuration)
        )
    except ConfigurationError as error:
        return str(error)
    return ""


def renamed(folder: Path, *, old: str, new: str) -> Path:
    path = folder / "renamed.toml"
    path.write_text("".join(TABLES.values()).replace(f"[{old}]", f"[{new}]"))
    return path


async def test_usual_series(harness, tmp_path):
    """Series that joined, left, changed their label or model are no rename."""
    await harness.make_all()
    assert await refusal(harness, harness.file) == ""
    assert await refusal(harness, write_file(tmp_path, [MAIN, DICE])) == ""
    changed = tmp_path / "changed.toml"
    text = "".join(TABLES.values()).replace("Claude", "Opus").replace("opus-5", "opus-6")
    changed.write_text(f'{text}[new]\nmodel = "another"\n')
    assert await refusal(harness, changed) == ""


async def test_a_forgotten_file(harness, tmp_path):
    """Without SERIES_FILE, a lost variable would retire every series except `main`."""
    assert await refusal(harness) == ""
    await harness.make_all()
    assert await refusal(harness) == (
        "SERIES_FILE is not set, and the journal has the series claude, dice, which would be "
        "retired. Set SERIES_FILE to the file that has them. To retire all series except main, set "
        "it to a file that has only [main]."
    )
    # A file with `main` alone retires the others on purpose, and then nothing can be lost.
    alone = write_file(tmp_path, [MAIN])
    assert await refusal(harness, alone) == ""
    one = in_force.make(settings.load(variables(harness, alone)))
    object.__setattr__(harness.context, "in_force", one)
    object.__setattr__(harness.context, "series", (MAIN,))
    harness.clock.time = new_york(MONDAY + timedelta(weeks=1))
    await harness.run(MAIN)
    assert await refusal(harness) == ""


@pytest.mark.parametrize("old", [CLAUDE, DICE])
@pytest.mark.sampled(1)
async def test_a_renamed_series(harness, tmp_path, old):
    """A name lasts: the line names both names, and says that the label can change."""
    await harness.make_all()
    file = renamed(tmp_path, old=old, new="renamed")
    assert await refusal(harness, file) == (
        f"SERIES_FILE ({file}): [renamed] is new and asks what the series {old} of the journal "
        f"asks, and [{old}] is missing. The name of a series lasts: call the table [{old}] again. "
        f"Its label can change. If renamed is another series, take {old} out first, and add "
        "renamed after the next Monday."
    )


@pytest.mark.parametrize("name", [MAIN, DICE])
async def test_another_kind(harness, tmp_path, name):
    """A control cannot become a model, nor a model a control: the Monday would fail."""
    await harness.make_all()
    other = {MAIN: '[main]\nkind = "random"\n', DICE: '[dice]\nmodel = "a-new-model"\n'}
    file = tmp_path / "other.toml"
    file.write_text("".join({**TABLES, name: other[name]}.values()))
    assert await refusal(harness, file) == (
        f"SERIES_FILE: [{name}] is of the kind {'random' if name == MAIN else 'model'}, but the "
        f"record has a series of this name of the kind {'model' if name == MAIN else 'random'}. A "
        "name lasts: give the new series another name."
    )


async def test_main_renamed(harness, tmp_path):
    """An operator who makes the first file must call the only series main."""
    usual = in_force.make(settings.load(variables(harness)))
    object.__setattr__(harness.context, "in_force", usual)
    await harness.run(MAIN)
    file = tmp_path / "first.toml"
    file.write_text(f'[gpt]\nmodel = "{MODELS[MAIN]}"\n')
    found = await refusal(harness, file)
    assert "call the table [main] again" in found
    assert await refusal(harness) == ""


async def test_a_record_that_is_not_sealed(harness, database, tmp_path):
    """It has only `main`, until it is sealed."""
    await harness.run(MAIN)
    await harness.rows("DELETE FROM procrastinate_jobs")
    unseal(database)
    assert await refusal(harness) == ""
    assert await refusal(harness, write_file(tmp_path, [MAIN])) == ""
    for names, listed in (([MAIN, DICE], "[main], [dice]"), ([CLAUDE], "[claude]")):
        found = await refusal(harness, write_file(tmp_path, names))
        assert found == (
            f"SERIES_FILE has the series {listed}, and this record is not sealed: it can only have "
            "[main]. Run `alpha-monday seal` first: a sealed record declares each series before "
            "its first question."
        )


async def test_an_empty_record(harness):
    """Its first entry seals it, so it may have any series."""
    assert await refusal(harness, harness.file) == ""


async def test_a_damaged_declaration(harness, database, tmp_path):
    """It does not keep the service from its other work: the jobs that need it name it."""
    await harness.make_all()
    make_unreadable(database, "SERIES", "{}")
    file = renamed(tmp_path, old=CLAUDE, new="renamed")
    assert await refusal(harness, file) == ""


@pytest.mark.parametrize("name", ["serve", "work"])
async def test_the_commands_refuse(harness, capsys, tmp_path, name):
    """One clear line; a file whose models have their own keys needs no OPENAI_API_KEY."""
    await harness.make_all()
    file = renamed(tmp_path, old=CLAUDE, new="renamed")
    result = command(capsys, name, **variables(harness, file))
    assert result.exit_code == 1
    last = result.error.splitlines()[-1]
    assert last.startswith(f"alpha-monday: SERIES_FILE ({file}): [renamed] is new and asks what")
    broken = tmp_path / "broken.toml"
    broken.write_text("[main]\nmodell = 1\n")
    result = command(capsys, name, **variables(harness, broken))
    assert result.error == (
        f"alpha-monday: SERIES_FILE ({broken}): [main] modell is no option. Did you mean model?\n"
    )


@pytest.mark.parametrize("name", ["serve", "work", "pick"])
def test_missing_keys(capsys, tmp_path, monkeypatch, name):
    """Each key that the file names is needed, and that of the prices."""
    for variable in KEYS:
        monkeypatch.delenv(variable, raising=False)
    file = write_file(tmp_path)
    result = command(capsys, name, SERIES_FILE=file, MAIN_KEY="abc", OPENAI_API_KEY=OPENAI_KEY)
    assert result == (
        1,
        "",
        "alpha-monday: CLAUDE_KEY must be set to the key of the series claude, for example "
        "CLAUDE_KEY=abc123.\n",
    )
    result = command(capsys, name, SERIES_FILE=file, MAIN_KEY="abc", CLAUDE_KEY='"quoted"')
    assert (result.exit_code, result.output) == (1, "")
    assert result.error.startswith("alpha-monday: CLAUDE_KEY must be the key of the series claude")
    assert "quoted" not in result.error
    result = command(capsys, name, SERIES_FILE=file, MAIN_KEY="abc", CLAUDE_KEY="def")
    assert result.error.startswith("alpha-monday: ALPHA_VANTAGE_API_KEY must be set to the key")


async def test_a_worker_of_the_queue(harness, monkeypatch, tmp_path):
    """A worker that Procrastinate's command line starts refuses the same."""
    await harness.make_all()
    file = renamed(tmp_path, old=CLAUDE, new="renamed")
    for variable, value in variables(harness, file).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(queue.app, "context", None)
    with logged("INFO", harness.clock), pytest.raises(ConfigurationError, match="The name of a"):
        await queue.app.run_worker_async(wait=False, install_signal_handlers=False)


@pytest.mark.parametrize(
    "status", [pytest.param(code, id=str(code)) for code in (200, 400, 401, 403, 404, 429, 500)]
)
@pytest.mark.sampled(2)
async def test_a_key_never_appears(harness, database, capsys, status):
    """
    A provider repeats the key of its series: it is neither in the log, nor in a row, nor in what
    commands print.
    """
    key = KEYS["CLAUDE_KEY"]
    harness.answers[CLAUDE] = says({"error": {"message": f"Wrong: Bearer {key}."}}, status)
    secrets = series_file.secret_texts(settings.load(variables(harness, harness.file)))
    assert set(KEYS.values()) < set(secrets)
    with logged("DEBUG", harness.clock, *secrets) as lines:
        pause = await run_attempt(lambda: harness.run(CLAUDE))
    assert (pause is None) == (status not in (200, 429, 500))
    assert key not in repr(lines)
    tables = await harness.rows(
        "SELECT table_schema || '.' || table_name FROM information_schema.tables "
        "WHERE table_type = 'BASE TABLE' AND table_schema IN ('public', 'operations')"
    )
    for (table,) in tables:
        assert key not in repr(await harness.rows(f"SELECT * FROM {table}"))
    result = command(capsys, "status", DATABASE_URL=database, SERIES_FILE=harness.file, **KEYS)
    assert key not in result.output + result.error

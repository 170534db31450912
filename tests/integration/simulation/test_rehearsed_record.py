"""
A rehearsal that continues an earlier one, with the same series or with others.

The kind: a continued rehearsal whose series differ from those of its record. Members tried: the
file is forgotten, `--single` in its place, a series is renamed, retired, changed, or nothing
changes at all.
"""

import pytest
from commands import run

FILE = """
[claude]
base_url = "https://api.anthropic.com/v1"
model = "claude-opus-4-8"
key_from = "ANTHROPIC_API_KEY"

[dice]
kind = "random"
"""
CONTINUED = "This continued an earlier rehearsal; `alpha-monday db reset` deletes it."
NOTHING_NEW = "It had all of these Mondays already: no model was asked."


@pytest.fixture
def rehearse(tmp_path, create):
    """Return a function that rehearses with a text of a file, or with options in its place."""
    address = create()

    def play(until: str, text: str | None = None, *options: str) -> tuple[int, str]:
        arguments = ["rehearse", "--weeks", "1", "--until", until, "--calm", "--no-serve", *options]
        if text is not None:
            (tmp_path / "series.toml").write_text(text)
            arguments += ["--series", "series.toml"]
        done = run(*arguments, cwd=tmp_path, DATABASE_URL=address)
        return done.returncode, done.stderr

    return play


@pytest.mark.long
def test_a_continued_rehearsal_keeps_its_series(rehearse):
    """No series is retired by mistake, and the end says what each series has."""
    code, text = rehearse("2026-11-20", FILE)
    assert code == 0, text
    assert "claude: picks on 1 of 1 Monday.\ndice: picks on 1 of 1 Monday.\n" in text
    assert CONTINUED not in text

    for options in ((), ("--single",)):
        code, text = rehearse("2026-11-24", None, *options)
        assert code == 1
        assert (
            "This rehearsal has the series claude of a file, which would be retired. Continue it "
            "with --series FILE, or delete it with `alpha-monday db reset`." in text
        )

    code, text = rehearse("2026-11-24", FILE.replace("[claude]", "[opus]"))
    assert code == 1
    assert (
        "series.toml: [opus] is new and asks what the series claude of this rehearsal asks, and "
        "[claude] is missing." in text
    )

    changed = FILE.replace("[dice]", "temperature = 0.2\n\n[dice]")
    code, text = rehearse("2026-11-20", changed)
    assert code == 0
    assert f"{CONTINUED}\n{NOTHING_NEW}\n" in text

    code, text = rehearse("2026-11-24", changed)
    assert code == 0
    assert "claude: picks on 1 of 2 Mondays. 2026-11-23 failed: The model's provider" in text
    assert "`temperature` is deprecated for this model." in text
    assert CONTINUED in text
    assert NOTHING_NEW not in text


@pytest.mark.long
def test_a_series_that_the_file_leaves_out_retires(rehearse):
    """The file is given, so the operator means it; the rehearsal says it."""
    assert rehearse("2026-11-20", FILE)[0] == 0
    code, text = rehearse("2026-11-24", FILE[: FILE.index("[dice]")])
    assert code == 0
    assert "The file has no [dice]: this series retires now." in text
    assert "claude: picks on 2 of 2 Mondays.\ndice: picks on 1 of 1 Monday.\n" in text


@pytest.mark.long
def test_the_own_series_of_a_rehearsal_may_change(rehearse):
    """A rehearsal of main alone continues with several series, and the other way round."""
    assert rehearse("2026-11-20", None, "--single")[0] == 0
    code, text = rehearse("2026-11-24")
    assert code == 0
    assert "main: picks on 2 of 2 Mondays.\nsecond: picks on 1 of 1 Monday.\n" in text
    assert rehearse("2026-11-29", None, "--single")[0] == 0

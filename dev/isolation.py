"""
What the tests and these tools take from their surroundings: only the variables that are named here.

Any other variable could be a setting of the product, or one that libpq, httpx, the OpenAI client, dynaconf, click,
rich, git or Python itself reads. A list of those would never be complete, so this is the list of what stays.
"""

import os
import time

# Programs are found through PATH, temporary folders stand in TMPDIR, and with CI Hypothesis repeats the same examples.
# The last two are for the tests: a Postgres server to use in place of a new one, and the seed of the fuzzed providers.
KEPT = frozenset({"PATH", "TMPDIR", "CI", "TEST_DATABASE_URL", "FUZZ_SEED"})
KEPT_BEGINNINGS = ("PYTEST_",)

# What `make test-dates` sets: libfaketime, which moves the clock of every process that it is loaded into. A process
# that lost these variables would live at another date than the test that started it.
_CLOCK = ("LD_PRELOAD", "NO_FAKE_STAT")
_CLOCK_BEGINNING = "FAKETIME"

# No file of the user's decides anything either: ~/.pgpass, ~/.pg_service.conf and ~/.gitconfig are not found.
NO_HOME = "/nonexistent"


def moved_clock() -> dict[str, str]:
    """Return the variables by which this process's clock was moved to another date; none where it is the real one."""
    if _CLOCK_BEGINNING not in os.environ:
        return {}
    return {name: value for name, value in os.environ.items() if name in _CLOCK or name.startswith(_CLOCK_BEGINNING)}


def isolate(*also: str) -> None:
    """Remove every other variable from this process's environment; those that begin with one of `also` stay, too."""
    clock = moved_clock()
    for name in list(os.environ):
        if name not in KEPT and name not in clock and not name.startswith((*KEPT_BEGINNINGS, *also)):
            del os.environ[name]
    os.environ.setdefault("HOME", NO_HOME)
    os.environ["TZ"] = "UTC"
    time.tzset()

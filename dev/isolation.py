"""
Removes the user's environment variables from tests and tools, except those that are listed here.

Any other variable could be a setting of the service, or one that libpq, httpx, the OpenAI client,
dynaconf, click, rich, git or Python itself reads. A list of those would never be complete, so this
module lists the variables that stay.
"""

import os
import signal
import time

# PATH finds programs, TMPDIR is the folder for temporary files, and CI makes Hypothesis repeat the
# same examples. The last two are for the tests: a Postgres server to use instead of a new one, and
# the seed of the fuzzed providers.
ALLOWED = frozenset({"PATH", "TMPDIR", "CI", "TEST_DATABASE_URL", "FUZZ_SEED"})
ALLOWED_PREFIXES = ("PYTEST_",)

# `make test-dates` sets these variables for libfaketime, which moves the clock of every process
# that loads it. A process without them would have another date than the test that started it.
_CLOCK = ("LD_PRELOAD", "NO_FAKE_STAT")
_CLOCK_PREFIX = "FAKETIME"

# With a home folder that does not exist, no file of the user has an effect: ~/.pgpass,
# ~/.pg_service.conf and ~/.gitconfig are not found.
NO_HOME = "/nonexistent"


def moved_clock() -> dict[str, str]:
    """
    Return the environment variables that moved this process's clock to another date.

    The result is empty if the process has the real date.
    """
    if _CLOCK_PREFIX not in os.environ:
        return {}
    return {
        name: value
        for name, value in os.environ.items()
        if name in _CLOCK or name.startswith(_CLOCK_PREFIX)
    }


def isolate(*also: str) -> None:
    """
    Remove all variables that are not allowed from this process's environment.

    Variables that begin with one of the prefixes `also` stay, too.
    """
    allowed = ALLOWED | moved_clock().keys()
    prefixes = (*ALLOWED_PREFIXES, *also)
    for name in list(os.environ):
        if name not in allowed and not name.startswith(prefixes):
            del os.environ[name]
    os.environ.setdefault("HOME", NO_HOME)
    os.environ["TZ"] = "UTC"
    time.tzset()


def restore_interrupt() -> None:
    """
    Let SIGINT end this process and those that it starts, also if SIGINT was ignored before.

    A shell lets a command in the background ignore SIGINT, and every process that is started from
    there inherits this. A test that sends SIGINT to a command would then wait in vain.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

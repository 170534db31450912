"""
Import dynaconf without the environment variables that configure dynaconf itself.

dynaconf reads every *_FOR_DYNACONF variable when it is imported, and again when its settings are
created. It converts the values of these variables: x is not a port, for example, so
REDIS_PORT_FOR_DYNACONF=x ends the import with a traceback. None of these variables may decide a
setting of ours. So this module hides all of them while dynaconf is imported, and
`app.core.settings` hides them while it uses dynaconf.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_NAME_PART = "DYNACONF"


@contextmanager
def without_dynaconf_variables() -> Iterator[None]:
    """Remove all variables with DYNACONF in their name from os.environ for a `with` block."""
    names = [name for name in os.environ if _NAME_PART in name.upper()]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)


# Not at the top of the file: dynaconf must be imported while its variables are removed.
with without_dynaconf_variables():
    from dynaconf import Dynaconf, ValidationError, Validator
    from dynaconf.loaders import toml_loader

__all__ = ["Dynaconf", "ValidationError", "Validator", "toml_loader", "without_dynaconf_variables"]

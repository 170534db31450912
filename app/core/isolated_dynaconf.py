"""
dynaconf, without the variables that it reads when it is imported and again when its settings are made.

It converts every *_FOR_DYNACONF variable then, and REDIS_PORT_FOR_DYNACONF=x ends that with a traceback. None of them
decides a setting of ours (`app.core.settings` says why), so none of them is there meanwhile.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_MARK = "DYNACONF"


@contextmanager
def without_its_variables() -> Iterator[None]:
    """Hide dynaconf's own variables in this block."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if _MARK in name.upper()}
    try:
        yield
    finally:
        os.environ.update(hidden)


with without_its_variables():
    from dynaconf import Dynaconf, ValidationError, Validator
    from dynaconf.loaders import toml_loader

__all__ = ["Dynaconf", "ValidationError", "Validator", "toml_loader", "without_its_variables"]

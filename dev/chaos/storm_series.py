"""
The series of a storm: two models, each on a simulated server of its own, and a control.

The service reads them from a file in the folder of the storm. The file has no key, only the names
of the variables with the keys.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from app.simulation.model_servers import MODEL_SERVERS
from app.simulation.provider_simulators import SERVERS_PATH

FILE_NAME = "series.toml"


class StormSeries(NamedTuple):
    """
    A series of a storm.

    `server` is the kind of the simulated server that its model is asked at; it is empty for a
    control.
    """

    name: str
    server: str = ""

    @property
    def kind(self) -> str:
        """Return the kind of the series, as the file and the journal name it."""
        return "model" if self.server else "random"

    @property
    def model(self) -> str:
        """Return the name of the model: the simulators log it, too. It is empty for a control."""
        return MODEL_SERVERS[self.server].model if self.server else ""

    @property
    def key_variable(self) -> str:
        """Return the name of the environment variable with the key."""
        return f"KEY_OF_{self.name.upper()}"


SERIES = (
    StormSeries("main", "openai"),
    StormSeries("second", "anthropic"),
    StormSeries("dice"),
)
MODELS = tuple(one for one in SERIES if one.server)


def make_key(seed: str, owner: str) -> str:
    """Return a key that is found wherever it is shown: no other text contains it."""
    return f"{owner}-{hashlib.sha256(f'{seed}/{owner}'.encode()).hexdigest()[:24]}"


def make_keys(seed: str) -> dict[str, str]:
    """Return the environment variables with the keys of all models."""
    return {one.key_variable: make_key(seed, one.name) for one in MODELS}


def write_file(path: Path, base_url: str, timeout_seconds: float) -> None:
    """Write the file of the series, for simulators at `base_url`."""
    tables = [_table(one, base_url, timeout_seconds) for one in SERIES]
    path.write_text("\n".join(tables), encoding="utf-8")


def _table(series: StormSeries, base_url: str, timeout_seconds: float) -> str:
    options: Mapping[str, object] = {"label": f"The series {series.name}", "kind": series.kind}
    if series.server:
        options = {
            **options,
            "base_url": f"{base_url}{SERVERS_PATH}/{series.server}/v1",
            "key_from": series.key_variable,
            "model": series.model,
            "timeout_seconds": timeout_seconds,
        }
    # These texts and numbers are written in TOML as they are in JSON.
    lines = [f"{name} = {json.dumps(value)}" for name, value in options.items()]
    return "\n".join([f"[{series.name}]", *lines, ""])

"""Whether the price requests of the configured series fit in the key's daily limit."""

from app.core import series_file
from app.core.settings import Settings
from app.domain import request_plan
from app.errors import ConfigurationError


def require_room_for_closes(settings: Settings, *, source: str = series_file.SETTING) -> None:
    """
    Raise ConfigurationError if the closes of the series do not fit in ALPHA_VANTAGE_PER_DAY.

    Splits are best effort, so they do not matter here. The message names `source`, the setting or
    the option of a command that has the path of the file of series.
    """
    problem = request_plan.explain_misfit(
        len(series_file.load(settings, source=source)),
        settings.alpha_vantage_per_day,
        settings.benchmark_symbol,
        source=source,
    )
    if problem:
        raise ConfigurationError(problem)

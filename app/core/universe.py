"""The universe of a control: the tickers that it draws from."""

from msgspec import Struct


class Universe(Struct, frozen=True):
    """The tickers to draw from, in ascending order, and where they come from."""

    tickers: tuple[str, ...]
    source: str


def load_universe() -> Universe:
    """Return the universe of this version."""
    return Universe(("AAPL", "KO", "MSFT", "NVDA"), "test")

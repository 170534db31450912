"""Which work was due so long ago that it must be there: docs/journal.md, "What is long over"."""

from datetime import datetime

from independent_verifier.sessions import DAY

FORTNIGHT = 14 * DAY
OF_A_SERVICE = ("GENERATION", "BATCH", "FAILURE", "CHECKPOINT")


class LongOver:
    """Decides what is long over, from the contents of all entries."""

    def __init__(self, contents: list[dict]) -> None:
        service = [content for content in contents if content["kind"] in OF_A_SERVICE]
        prices = [content for content in service if has_prices(content)]
        self.until = latest_due(service)
        self.until_with_prices = latest_due(prices)
        of_batches: dict[str, list[dict]] = {}
        for content in prices:
            of_batches.setdefault(content["checkpoint"]["batch_id"], []).append(content)
        self.until_of_batch = {batch: latest_due(its) for batch, its in of_batches.items()}

    def without_prices(self, due: datetime) -> bool:
        """Return whether a Monday, or a checkpoint that needs no prices, is long over."""
        return self.until is not None and due <= self.until

    def with_prices(self, batch: str, due: datetime) -> bool:
        """Return whether a checkpoint that needs prices is long over."""
        its, of_all = self.until_of_batch.get(batch), self.until_with_prices
        if its is not None and due <= its:
            return True
        return of_all is not None and due <= of_all - FORTNIGHT


def has_prices(content: dict) -> bool:
    """Return whether an entry shows that prices were there."""
    if content["kind"] == "CHECKPOINT":
        return content["checkpoint"]["status"] == "computed"
    return content["kind"] == "BATCH"


def latest_due(contents: list[dict]) -> datetime | None:
    """Return the time up to which everything that was due is long over."""
    return days_back([datetime.fromisoformat(content["at"]) for content in contents])


def days_back(times: list[datetime]) -> datetime | None:
    """
    Return the latest time that is at least a day before the newest one, less one day.

    None if there is no such time.
    """
    newest = max(times, default=None)
    before = [time for time in times if time <= newest - DAY]
    if not before:
        return None
    return max(before) - DAY

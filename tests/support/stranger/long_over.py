"""What was due so long ago that it must be there: docs/journal.md, "What is long over"."""

from datetime import datetime

from stranger.sessions import DAY

FORTNIGHT = 14 * DAY
OF_A_SERVICE = ("GENERATION", "BATCH", "FAILURE", "CHECKPOINT")


class LongOver:
    """What is long over, by the contents of all entries."""

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
        """Of a Monday, and of a checkpoint that needs no prices."""
        return self.until is not None and due <= self.until

    def with_prices(self, batch: str, due: datetime) -> bool:
        """Of a checkpoint that needs prices."""
        its, of_all = self.until_of_batch.get(batch), self.until_with_prices
        if its is not None and due <= its:
            return True
        return of_all is not None and due <= of_all - FORTNIGHT


def has_prices(content: dict) -> bool:
    """Say whether an entry shows that there were prices."""
    if content["kind"] == "CHECKPOINT":
        return content["checkpoint"]["status"] == "computed"
    return content["kind"] == "BATCH"


def latest_due(contents: list[dict]) -> datetime | None:
    """What was due at or before this time is long over."""
    return days_back([datetime.fromisoformat(content["at"]) for content in contents])


def days_back(times: list[datetime]) -> datetime | None:
    """The day before the latest time that is a day before the newest one."""
    newest = max(times, default=None)
    before = [time for time in times if time <= newest - DAY]
    if not before:
        return None
    return max(before) - DAY

"""What the declarations so far say: docs/journal.md, "Sealed records"."""

from dataclasses import dataclass, field

Settings = dict


@dataclass
class Declared:
    """The declarations up to an entry, this entry included."""

    genesis: dict | None = None
    sealed: bool = False
    is_being_sealed: bool = False  # between a late GENESIS and the settings that seal the record
    settings: list[Settings] = field(default_factory=list)
    # By name: each declaration of a series, with the hash of its entry.
    series: dict[str, list[tuple[dict, str]]] = field(default_factory=dict)
    # The series of the rows before a late GENESIS; None if there is no such entry.
    series_before_seal: set[str] | None = None
    listed: set[str] = field(default_factory=set)  # the days that any settings list

    def learn(self, content: dict, hash: str) -> None:
        """Add the declarations of an entry."""
        if content["kind"] == "GENESIS":
            self.genesis = content["genesis"]
            self.is_being_sealed = self.genesis["late"] == "true"
            self.sealed = not self.is_being_sealed
        if "sealed" in content:
            self.sealed, self.is_being_sealed = True, False
        if settings := content.get("settings"):
            self.settings.append(settings)
            self.listed |= set(settings["days_without_session"])
        if series := content.get("series"):
            self.series.setdefault(series["name"], []).append((series, hash))

    def newest_series(self, name: str) -> dict | None:
        """Return the newest declaration of a series."""
        declared = self.series.get(name)
        return declared[-1][0] if declared else None

    def series_in_force(self, name: str, run_date: str) -> dict | None:
        """Return the declaration of a series that is in force on a Monday."""
        found = None
        for series, _ in self.series.get(name, []):
            if series["holds_from"] <= run_date:
                found = series
        return found

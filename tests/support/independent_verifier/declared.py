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
    series: dict[str, dict] = field(default_factory=dict)  # the newest one by its name
    listed: set[str] = field(default_factory=set)  # the days that any settings list

    def learn(self, content: dict) -> None:
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
            self.series[series["name"]] = series

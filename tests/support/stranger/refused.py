"""The one way in which this verifier says no."""


class Refused(AssertionError):
    """A record that breaks a rule of docs/journal.md, with the rule's name in the document."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule
        self.text = text


def require(holds: object, rule: str, text: str) -> None:
    """Refuse by `rule`, unless `holds`."""
    if not holds:
        raise Refused(rule, text)

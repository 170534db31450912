"""The error for a broken rule."""


class RecordRefused(AssertionError):
    """A record breaks a rule of docs/journal.md; `rule` is the rule's name in the document."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule
        self.text = text


def require(holds: object, rule: str, text: str) -> None:
    """Raise RecordRefused for `rule`, unless `holds` is true."""
    if not holds:
        raise RecordRefused(rule, text)

"""What was found, a line each; and what a service under test is given."""

# Providers that nobody reaches: what the service asks of them on a Monday is the rehearsal's to try.
KEYS = {
    "OPENAI_API_KEY": "made-up",
    "ALPHA_VANTAGE_API_KEY": "made-up",
    "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
    "ALPHA_VANTAGE_BASE_URL": "http://127.0.0.1:9",
}


class Checks:
    """What was found, a line each, and whether all of it was well."""

    failed = 0

    def __call__(self, what: str, well: object, found: object = "") -> None:
        """Print a check."""
        self.failed += not well
        print(f"{'ok  ' if well else 'FAIL'}  {what}{f': {found}' if found != '' else ''}", flush=True)

    def figure(self, what: str, found: object) -> None:
        """Print what was measured."""
        print(f"      {what}: {found}", flush=True)

"""Printed checks and figures, one line each; and the settings of a service under test."""

# Providers at addresses where nothing listens: only the rehearsal's providers answer.
KEYS = {
    "OPENAI_API_KEY": "made-up",
    "ALPHA_VANTAGE_API_KEY": "made-up",
    "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
    "ALPHA_VANTAGE_BASE_URL": "http://127.0.0.1:9",
}


class Checks:
    """Prints checks, and counts how many failed."""

    def __init__(self) -> None:
        self.failed = 0

    def __call__(self, title: str, passed: object, details: object = "") -> None:
        """Print a check with its details."""
        verdict = "ok  "
        if not passed:
            self.failed += 1
            verdict = "FAIL"
        line = f"{verdict}  {title}"
        if details != "":
            line += f": {details}"
        print(line, flush=True)

    def figure(self, title: str, value: object) -> None:
        """Print a measured value."""
        print(f"      {title}: {value}", flush=True)

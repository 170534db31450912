"""What pages write about a yearly check."""

import pytest

from app.web.pages.batch_text import finding_text


@pytest.mark.parametrize(
    ("finding", "batches", "text"),
    [
        pytest.param("BETTER", 51, "Better than luck explains.", id="a finding"),
        pytest.param(None, 29, "none: fewer than 30 scored batches", id="too few batches"),
        pytest.param(
            None,
            30,
            "none: the weeks are all alike, or the benchmark never moved",
            id="no interval",
        ),
    ],
)
def test_a_check_has_a_finding_or_a_reason(finding, batches, text):
    """The reason is that of the rule that prevents a finding, as docs/record.md defines them."""
    assert finding_text({"finding": finding, "batches": batches}) == text

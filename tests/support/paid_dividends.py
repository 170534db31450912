"""The jobs that request dividends and add total returns, as a service runs them."""

from datetime import date

from job_context import JobHarness, new_york, run_until_done

from jobs import dividends, reconcile, total_returns


async def refresh_dividends(harness: JobHarness, sunday: date) -> None:
    """Run the job of a Sunday, which reconciliation has deferred."""
    harness.clock.time = max(harness.clock.time, new_york(sunday, 12))
    await reconcile.run_round(harness.context)
    assert [args for task, args, _ in await harness.jobs() if task == "read_dividends"][-1] == {
        "sunday": str(sunday)
    }
    await run_until_done(harness, lambda: dividends.refresh(harness.context, sunday))


async def add_total_returns(harness: JobHarness) -> None:
    """Run the jobs that a completed batch has deferred."""
    for task, args, _ in await harness.jobs():
        if task == "add_total_returns":
            await total_returns.add_total_returns(**args)

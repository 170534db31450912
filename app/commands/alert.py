"""`alpha-monday alert`: a way to try who is told when something goes wrong."""

import click

from app.commands.terminal import Commands, asynchronous, clock
from app.core import settings
from app.errors import ConfigurationError, ProviderError, Refused
from app.providers.webhook import Receiver
from jobs import alerts


@click.group(cls=Commands)
def alert() -> None:
    """Try the receiver of alerts.

    \b
    Example:
      alpha-monday alert test
    """


@alert.command()
@asynchronous
async def test() -> None:
    """Send an alert of the kind `test` to ALERT_WEBHOOK_URL, once, and print the status of the answer.

    Needs no database; the address is not shown. docs/operate/alerts-webhook.md says what a receiver gets.

    \b
    Exit code: 0 the receiver took it, 1 it did not.

    \b
    Example:
      ALERT_WEBHOOK_URL=https://hooks.example.org/abc123 alpha-monday alert test
    """
    receiver = Receiver("ALERT_WEBHOOK_URL", settings.load().alert_webhook_url, clock)
    if not receiver.on:
        raise ConfigurationError(
            "ALERT_WEBHOOK_URL is not set, so nobody is told; for example "
            "ALERT_WEBHOOK_URL=https://hooks.example.org/services/T0/B0/abc123"
        )
    about_nothing = alerts.about_nothing(clock.now())
    try:
        status = await receiver.post(alerts.payload(about_nothing, rehearsed=False), str(about_nothing.id))
    except ProviderError as error:
        raise Refused(f"{error} The service would try again, for a day.") from None
    finally:
        await receiver.close()
    click.echo(f"Delivered: ALERT_WEBHOOK_URL answered {status}. The alert's id: {about_nothing.id}")

"""`alpha-monday alert`: test the receiver of alerts."""

import click

from app.commands.terminal import CommandGroup, async_command, clock
from app.core import settings
from app.errors import ConfigurationError, ProviderError, Refused
from app.providers.webhook import WebhookReceiver
from jobs import alerts


@click.group(cls=CommandGroup)
def alert() -> None:
    """Test the receiver of alerts.

    \b
    Example:
      alpha-monday alert test
    """


@alert.command()
@async_command
async def test() -> None:
    """Send one alert of the kind `test` to ALERT_WEBHOOK_URL, and print the status of the response.

    It needs no database, and never prints the address. docs/operate/alerts-webhook.md describes
    what a receiver gets.

    \b
    Exit code: 0 the receiver accepted the alert, 1 it did not.

    \b
    Example:
      ALERT_WEBHOOK_URL=https://hooks.example.org/abc123 alpha-monday alert test
    """
    receiver = WebhookReceiver("ALERT_WEBHOOK_URL", settings.load().alert_webhook_url, clock)
    if not receiver.is_configured:
        raise ConfigurationError(
            "ALERT_WEBHOOK_URL is not set, so no alerts are sent. Set it, for example "
            "ALERT_WEBHOOK_URL=https://hooks.example.org/services/T0/B0/abc123"
        )
    message = alerts.make_test_alert(clock.now())
    payload = alerts.payload(message, rehearsed=False, journal_head=None)
    try:
        status = await receiver.post(payload, str(message.id))
    except ProviderError as error:
        raise Refused(f"{error} The service would repeat the request for a day.") from None
    finally:
        await receiver.close()
    click.echo(f"Delivered: ALERT_WEBHOOK_URL answered {status}. The alert's id: {message.id}")

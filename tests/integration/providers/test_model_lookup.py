"""Questions about the end of a model, to the simulated servers of each kind, over real HTTP."""

import logging
from collections.abc import AsyncIterator, Callable
from datetime import date
from urllib.parse import unquote

import pytest
from provider_server import CUT, CUT_IN_THE_BODY, HANGING, ProviderServer, Reply, Request, says
from provider_server import provider as provider

from app.providers import model_lookup
from app.providers.llm import ModelClient, ModelOptions
from app.providers.model_lookup import ModelLookup
from app.simulation.model_servers import MODEL_SERVERS

KEY = "a-key-of-nobody"

MakeClient = Callable[..., ModelClient]


@pytest.fixture
async def client(provider: ProviderServer) -> AsyncIterator[MakeClient]:
    """Return a function that makes a client of the provider's server."""
    clients: list[ModelClient] = []

    def make(model: str = "m", key: str = KEY) -> ModelClient:
        made = ModelClient(key, ModelOptions(model=model), f"{provider.url}/v1/")
        clients.append(made)
        return made

    yield make
    for one in clients:
        await one.close()


def serve(provider: ProviderServer, kind: str, **options: object) -> None:
    """Let the provider's server answer as a kind of server does."""

    def answer(request: Request) -> Reply:
        is_known = request.headers["authorization"] == f"Bearer {KEY}"
        name = unquote(request.path.removeprefix("/v1/models").removeprefix("/"))
        reply = MODEL_SERVERS[kind].reply_about_models(name, KEY if is_known else "", **options)
        return Reply(reply.body, status=reply.status, headers=reply.headers)

    provider.answers = answer


@pytest.mark.parametrize("kind", MODEL_SERVERS)
async def test_a_model_that_the_server_has(provider, client, kind):
    """Each kind of server says so, in one request or two."""
    serve(provider, kind)
    server = MODEL_SERVERS[kind]
    assert await client(server.model).look_up() == ModelLookup()
    assert [request.method for request in provider.requests] == ["GET"] * len(provider.requests)
    assert len(provider.requests) == (1 if server.answers_about_model else 2)


@pytest.mark.parametrize("kind", MODEL_SERVERS)
async def test_a_model_that_is_gone(provider, client, kind):
    """A server that no longer has its model still has others."""
    serve(provider, kind, has_model=False)
    assert await client(MODEL_SERVERS[kind].model).look_up() == ModelLookup(is_gone=True)


async def test_a_shutdown_date(provider, client):
    """OpenAI names it."""
    serve(provider, "openai", shutdown_date="2027-01-14")
    answer = await client(MODEL_SERVERS["openai"].model).look_up()
    assert answer == ModelLookup(ends_on=date(2027, 1, 14))


async def test_a_wrong_key_says_nothing_about_the_model(provider, client):
    serve(provider, "openai", has_model=False)
    assert await client("gpt-5.4-mini", key="another").look_up() is None


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=404),
        Reply(status=500),
        Reply(status=302, headers={"location": "http://127.0.0.1:1/"}),
        Reply(b"<html>All is well</html>"),
        Reply(b""),
        Reply(b"[" * 100_000),
        Reply(b'{"id": "m"}', headers={"content-encoding": "br"}),
        says({"id": "m", "padding": "x" * model_lookup.MAX_BODY_BYTES}),
        CUT,
        CUT_IN_THE_BODY,
    ],
    ids=str,
)
async def test_an_answer_that_cannot_be_used(provider, client, reply):
    """It is no news about the model, and no error."""
    provider.play(reply)
    assert await client().look_up() is None


async def test_a_server_that_hangs(provider, client, monkeypatch):
    monkeypatch.setattr(model_lookup, "TIMEOUT_SECONDS", 0.2)
    provider.play(HANGING)
    assert await client().look_up() is None


@pytest.mark.parametrize(
    ("key", "address"),
    [("schlüssel", "http://127.0.0.1:1/v1"), ("a\nb", "http://127.0.0.1:1"), ("k", "http://[")],
)
async def test_what_cannot_be_sent(key, address):
    assert await model_lookup.look_up("m", key=key, base_url=address) is None


async def test_the_key_and_the_name(provider, client, caplog):
    """The name is a part of the address, and the key is in no log line."""
    caplog.set_level(logging.DEBUG)
    provider.play(says({"id": "x"}))
    assert await client("a/b:c d?e").look_up() == ModelLookup()
    (request,) = provider.requests
    assert request.path == "/v1/models/a%2Fb%3Ac%20d%3Fe"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in caplog.text
    assert request.query == {}


async def test_the_library_for_questions_is_not_loaded(provider, client):
    """It needs 50 MB, and is loaded with the first question."""
    made = client()
    provider.play(says({"id": "m"}))
    await made.look_up()
    assert made._client is None

"""
Bodies and heads of hostile providers, over real HTTP: how much memory they take, and which error
they cause.

The kind: whatever a server can make large with little effort. Its body (plain, in chunks, in chunks
of one byte, compressed in each way, compressed twice, that of an error, that of an error in a
charset that decompresses or takes long), its head (endless headers, one endless header, a long
charset, a long wait), its trailer, its choices.
"""

import asyncio
import json
import sys
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator

import pytest
from clocks import HandSetClock
from hostile_bodies import (
    compressed,
    endless,
    endless_headers,
    interim,
    of_charset,
    plain,
    trailers,
    whole,
)
from provider_server import Reply, says
from provider_server import provider as provider

from app.errors import AlphaMondayError, ConfigurationError, ProviderError, ProviderUnavailable
from app.providers import bodies
from app.providers.llm import MAX_BODY_BYTES
from app.providers.webhook import WebhookReceiver
from tests.integration.providers.test_llm import NOW, a_completion
from tests.integration.providers.test_llm import picker as picker

MB = 1_000_000
LARGE = 32 * MB
TOO_LONG = "The model's provider answered with more than 1,000,000 bytes; the rest was not read."
CODED = "The model's provider compressed its answer in a way that was not asked for."
NO_CONNECTION = "The model's provider did not answer (APIConnectionError): Connection error."
FAILED = "The model's provider did not answer (InternalServerError): Error code: 500"
REFUSED = "The model's provider refused the request: Error code: 400"
# The record keeps this many characters of a server's words.
SHOWN = 300
WITH_WORDS = f"The model's provider refused the request: {'Error code: 400 - a-'.ljust(SHOWN, 'b')}"

# The most memory that a response may take, in bytes, whatever is sent.
HELD = 6 * MB
# The same for an error of almost a megabyte: its JSON is decoded, and secrets are redacted in it.
HELD_OF_ERRORS = 10 * MB

HOSTILE = [
    pytest.param(plain(LARGE), TOO_LONG, id="a plain body"),
    pytest.param(endless(), TOO_LONG, id="an endless body in chunks", marks=pytest.mark.long),
    pytest.param(
        endless(part=b" "),
        TOO_LONG,
        id="an endless body in chunks of a byte",
        marks=pytest.mark.long,
    ),
    pytest.param(compressed(LARGE), TOO_LONG, id="gzip"),
    pytest.param(compressed(LARGE, b"deflate"), TOO_LONG, id="deflate", marks=pytest.mark.long),
    pytest.param(
        compressed(LARGE, b"gzip, gzip", times=2),
        CODED,
        id="gzip over gzip",
        marks=pytest.mark.long,
    ),
    pytest.param(
        endless(more=b"Content-Encoding: br\r\n"),
        CODED,
        id="another coding",
    ),
    pytest.param(
        endless(more=b"Content-Encoding: " + b"x" * 5000 + b"\r\n"),
        CODED,
        id="a coding with a long name",
        marks=pytest.mark.long,
    ),
    pytest.param(
        plain(1000, more=b"Content-Encoding: gzip\r\n"),
        "The model's provider answered with a body that is not gzip.",
        id="a body that is not gzip",
        marks=pytest.mark.long,
    ),
    pytest.param(endless(500), FAILED, id="an error"),
    pytest.param(
        compressed(LARGE, status=500), FAILED, id="an error in gzip", marks=pytest.mark.long
    ),
    pytest.param(
        endless(400, more=b"Content-Encoding: br\r\n"),
        REFUSED,
        id="an error in another coding",
        marks=pytest.mark.long,
    ),
    pytest.param(of_charset(b"zlib", LARGE), REFUSED, id="an error in a charset that decompresses"),
    pytest.param(
        of_charset(b"bz2", LARGE),
        REFUSED,
        id="an error in another charset that decompresses",
        marks=pytest.mark.long,
    ),
    pytest.param(
        of_charset(b"punycode", 900_000),
        WITH_WORDS,
        id="an error in a charset that takes long",
        marks=pytest.mark.long,
    ),
    pytest.param(
        of_charset(b"x" * 90_000, 1000),
        WITH_WORDS,
        id="an error in a charset with a long name",
        marks=pytest.mark.long,
    ),
    pytest.param(
        endless_headers(), NO_CONNECTION, id="an endless list of headers", marks=pytest.mark.long
    ),
    pytest.param(endless_headers(b"a"), NO_CONNECTION, id="a header that never ends"),
    pytest.param(trailers(b"{}"), NO_CONNECTION, id="a trailer that never ends"),
    pytest.param(
        interim(20, b"nonsense\r\n\r\n"),
        NO_CONNECTION,
        id="interim responses and nonsense",
        marks=pytest.mark.long,
    ),
]


async def outcome(ask) -> str:
    """Return the error in which a question ends."""
    with pytest.raises(AlphaMondayError) as refused:
        await ask
    return str(refused.value)


@pytest.mark.parametrize(("reply", "error"), HOSTILE)
async def test_a_hostile_provider(picker, provider, reply, error):
    """Little memory is used, and the error names the fault."""
    model = picker()
    provider.play(says(a_completion()))
    await model.ask("system", "user")  # loads what the library itself needs
    # Some bodies are compressed when their first part is read. That memory is not the client's.
    next(iter(reply.raw()))
    provider.play(reply)
    tracemalloc.start()
    try:
        assert await outcome(model.ask("system", "user")) == error
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < HELD, f"{peak:,} bytes"
    provider.play(says(a_completion()))
    # the client still works
    assert (await model.ask("system", "user")).unusable_reason is None


LONG_WORDS = {
    "one word": "b" * 900_000,
    "many words": "b " * 450_000,
    "white space": " " * 450_000 + "b" * 450_000,
    "controls": "\x07" * 150_000,
    "beyond ASCII": "\u0431" * 150_000,
    "beyond the plane": "\U0001d51f" * 75_000,
}
FORMS = {
    "a text": lambda words: words,
    "OpenAI's": lambda words: {"error": {"message": words}},
    "xAI's": lambda words: {"error": words},
    "Gemini's": lambda words: [{"error": {"message": words}}],
    "Mistral's": lambda words: {"message": {"detail": [{"msg": words, "loc": ["body"]}]}},
    "a place": lambda words: {"detail": [{"msg": "wrong", "loc": [words]}]},
}


@pytest.mark.parametrize("words", LONG_WORDS.values(), ids=LONG_WORDS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
async def test_long_words_of_an_error(picker, provider, form, words):
    """The words of an error, in each form of an error, take little memory, too."""
    model = picker()
    provider.play(says(a_completion()))
    await model.ask("system", "user")
    reply = whole(json.dumps(form(words)).encode())
    next(iter(reply.raw()))
    provider.play(reply)
    tracemalloc.start()
    try:
        error = await outcome(model.ask("system", "user"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert error.startswith(REFUSED)
    assert len(error) < 400
    assert peak < HELD_OF_ERRORS, f"{peak:,} bytes"


async def test_no_compression_is_requested(picker, provider):
    """The request has a header that asks for an uncompressed answer."""
    provider.play(says(a_completion()))
    await picker().ask("system", "user")
    assert [request.headers["accept-encoding"] for request in provider.requests] == ["identity"]


@pytest.mark.parametrize(
    ("coding", "bits"),
    [("gzip", 31), ("x-gzip", 31), ("GZIP", 31), ("deflate", 15), ("identity", None), ("", None)],
)
async def test_an_answer_that_is_compressed_nevertheless(picker, provider, coding, bits):
    """Proxies compress without being asked, so a compressed answer is read."""
    body = json.dumps(a_completion()).encode()
    if bits:
        packer = zlib.compressobj(9, zlib.DEFLATED, bits)
        body = packer.compress(body) + packer.flush()
    provider.play(Reply(body, headers={"content-encoding": coding}))
    assert (await picker().ask("system", "user")).unusable_reason is None


@pytest.mark.parametrize(("more", "fits"), [(0, True), (1, False)])
async def test_the_largest_body(picker, provider, more, fits):
    """A body of a million bytes is read; one more byte is an error."""
    body = json.dumps(a_completion()).encode()
    provider.play(Reply(body + b" " * (MAX_BODY_BYTES - len(body) + more)))
    if fits:
        assert (await picker().ask("system", "user")).unusable_reason is None
    else:
        assert await outcome(picker().ask("system", "user")) == TOO_LONG


async def test_incomplete_gzip(picker, provider):
    """A compressed body without its end is no answer, even if its beginning is a whole one."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    body = packer.compress(json.dumps(a_completion()).encode()) + packer.flush(zlib.Z_SYNC_FLUSH)
    provider.play(Reply(body, headers={"content-encoding": "gzip"}))
    assert await outcome(picker().ask("system", "user")) == (
        "The model's provider answered with a body that ends within its gzip."
    )


@pytest.mark.parametrize("status", [401, 403, 404, 429, 503])
async def test_the_status_of_a_long_error_counts(picker, provider, status):
    """The status of an error counts, however long its body is."""
    provider.play(endless(status))
    with pytest.raises((ConfigurationError, ProviderError)) as refused:
        await picker().ask("system", "user")
    assert isinstance(refused.value, ConfigurationError) == (status in (401, 404))
    assert "more than" not in str(refused.value)


async def test_a_flood_of_interim_responses_ends_in_time(picker, provider):
    """Interim responses are no answer, so the question's time limit ends them."""
    provider.play(interim(None))
    assert (
        await outcome(picker(timeout=0.3).ask("system", "user"))
        == "The model did not answer within 0.3 s."
    )


async def test_tens_of_thousands_of_choices(picker, provider):
    """One choice is requested, so only the first choices of a long list are checked."""
    choice = b'{"message":"\xef\xbf\xbd"}'
    body = b'{"choices":[' + b",".join([choice] * 49_000) + b"]} \xff"
    assert len(body) < MAX_BODY_BYTES
    provider.play(Reply(body))
    begun = time.process_time()
    assert (await picker().ask("system", "user")).unusable_reason
    assert time.process_time() - begun < 2


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        pytest.param("m" * 5000, "m" * 200, id="long"),
        pytest.param("a\x1b[31mb\nc", "a\ufffd[31mb\ufffdc", id="control characters"),
        pytest.param("gpt\u202e4\u2066", "gpt\ufffd4\ufffd", id="changes of direction"),
        pytest.param("a\ud800b\x00", "a\ufffdb\ufffd", id="characters that cannot be stored"),
        pytest.param("gpt-5.4 \u00e9\u4e2d", "gpt-5.4 \u00e9\u4e2d", id="letters of any language"),
        pytest.param(["m"] * 5, None, id="a list"),
    ],
)
async def test_the_name_of_the_model(picker, provider, name, stored):
    """The name has at most 200 characters, and each can be displayed."""
    provider.play(says({**a_completion(), "model": name}))
    assert (await picker().ask("system", "user")).model == stored


async def test_the_id_of_the_request(picker, provider):
    """The request's id has the same limit as the model's name."""
    provider.play(says(a_completion(), x_request_id="r" * 5000))
    assert (await picker().ask("system", "user")).request_id == "r" * 200


async def test_a_receiver_of_messages_reads_no_body(provider):
    """Only the status of a receiver's response counts: an endless body is not read."""
    receiver = WebhookReceiver("ALERT_WEBHOOK_URL", provider.url, HandSetClock(NOW))
    for reply in (endless(), compressed(LARGE), plain(LARGE)):
        provider.play(reply)
        assert await receiver.post({}, "key") == 200
    for reply in (endless(400), endless_headers(), endless_headers(b"a")):
        provider.play(reply)
        with pytest.raises((ConfigurationError, ProviderUnavailable)):
            await receiver.get()
    await receiver.close()


async def parts_of(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.mark.parametrize(
    ("parts", "coding", "most"),
    [
        pytest.param([b"a" * 6], "", 5, id="uncompressed"),
        pytest.param([b"a"] * 4, "", 100, id="many small parts"),
        pytest.param([zlib.compress(b"a" * 1000)], "deflate", 999, id="decompressed"),
        pytest.param([zlib.compress(b""), b"a" * 1000], "deflate", 500, id="after the end"),
    ],
)
async def test_how_a_body_is_measured(parts, coding, most):
    """Received and decompressed bytes both count, and each part counts as at least 32 bytes."""
    headers = {"content-encoding": coding}
    with pytest.raises(ProviderUnavailable, match="more than"):
        async for _ in bodies.bounded_parts(
            parts=parts_of(*parts), headers=headers, max_bytes=most, sender="It"
        ):
            pass


# A separate process asks one question, and prints how much memory that took and for how long its
# event loop was blocked.
CLIENT = """
import asyncio, json, resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
import app.providers.openai_client
from app.providers.llm import ModelClient, ModelOptions

def peak():
    # Not ru_maxrss, which a new process inherits from its parent.
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024

async def main():
    longest = 0.0
    async def tick():
        nonlocal longest
        while True:
            begun = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - begun)
    ticking = asyncio.create_task(tick())
    picker = ModelClient(
        "sk-abc123secret", ModelOptions(model="m"), sys.argv[1], timeout=float(sys.argv[2])
    )
    await picker.ask("system", "user")  # a usual answer: loads what the library needs
    longest = 0.0
    before, begun = peak(), time.monotonic()
    try:
        ending = (await picker.ask("system", "user")).unusable_reason
    except Exception as error:
        ending = f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - begun
    megabytes = peak() - before
    result = {"ending": ending, "seconds": seconds, "megabytes": megabytes, "loop": longest}
    print(json.dumps(result))

asyncio.run(main())
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("reply", "ending"),
    [
        pytest.param(plain(1000 * MB), TOO_LONG, id="1 GB plain"),
        pytest.param(compressed(1000 * MB), TOO_LONG, id="1 GB in gzip"),
        pytest.param(endless(), TOO_LONG, id="endless chunks"),
        pytest.param(endless(part=b" "), TOO_LONG, id="endless chunks of a byte"),
        pytest.param(endless(500), FAILED, id="an endless error"),
        pytest.param(compressed(1000 * MB, status=500), FAILED, id="an error of 1 GB in gzip"),
        pytest.param(of_charset(b"zlib", 900 * MB), REFUSED, id="an error of 900 MB in a charset"),
        pytest.param(plain(30 * MB), TOO_LONG, id="30 MB"),
        pytest.param(endless_headers(), NO_CONNECTION, id="endless headers"),
        pytest.param(endless_headers(b"a"), NO_CONNECTION, id="one endless header"),
        pytest.param(trailers(b"{}"), NO_CONNECTION, id="an endless trailer"),
        pytest.param(
            interim(None), "The model did not answer within 20 s.", id="endless interim responses"
        ),
    ],
)
async def test_the_memory_of_a_process(provider, request, reply, ending):
    """A question takes only some megabytes of memory, whatever the server sends."""
    provider.play(says(a_completion()), reply)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, f"{provider.url}/v1", "20", stdout=asyncio.subprocess.PIPE
    )
    result = json.loads((await process.communicate())[0])
    print(
        f"\n{request.node.callspec.id}: {result['megabytes']:.1f} MB, {result['seconds']:.2f} s, "
        f"loop {result['loop'] * 1000:.0f} ms: {result['ending']}"
    )
    assert result["ending"].endswith(ending)
    assert result["megabytes"] < 40

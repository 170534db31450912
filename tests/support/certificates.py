"""
Certificates that are read once in a process.

Each HTTP client reads all certificates that it trusts, which takes 20 ms, and the tests make
thousands of clients, which nearly all talk to a plain server on loopback.
"""

import os
import ssl
from functools import cache

import httpcore2


def read_once() -> None:
    """Let all clients that trust the same files share one context."""
    ssl.create_default_context = cache(ssl.create_default_context)
    make = httpcore2.default_ssl_context

    @cache
    def made(trust_env: bool, *_: str | None) -> ssl.SSLContext:
        return make(_trust_env=trust_env)

    def default_ssl_context(*, _trust_env: bool = True) -> ssl.SSLContext:
        files = (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
        return made(_trust_env, *files)

    httpcore2.default_ssl_context = default_ssl_context

"""TLS on the loopback: a certificate that nobody but these tests trusts."""

from __future__ import annotations

import ssl
from pathlib import Path

#: A certificate for localhost and its key, both worthless: they stand here for all to read.
LOCALHOST = Path(__file__).parents[2] / "localhost.pem"


def serving() -> ssl.SSLContext:
    """Give what a server needs."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(LOCALHOST)
    return context


def trusting() -> ssl.SSLContext:
    """Give what a client needs to believe it."""
    return ssl.create_default_context(cafile=LOCALHOST)

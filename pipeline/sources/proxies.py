"""Proxies as the environment names them.

Read here rather than by the HTTP client: its `trust_env` also reads ~/.netrc, in a thread and for
every request, and refuses to send our key to a host that stands there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """The proxy for a request."""

    url: str
    #: aiohttp moves an `Authorization` in here to where the proxy looks for it.
    headers: Mapping[str, str] | None = None


class Proxies:
    """Knows the proxy of each host; the environment is read once."""

    def __init__(self) -> None:
        """Read the environment: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY."""
        self._by_scheme = getproxies()
        self._known: dict[str, Proxy | None] = {}

    def find(self, scheme: str, host: str) -> Proxy | None:
        """Give the proxy for a host, None for a direct connection."""
        url = self._by_scheme.get(scheme) or self._by_scheme.get("all")
        if not url:
            return None
        if host not in self._known:
            self._known[host] = None if proxy_bypass(host) else _proxy(url)
        return self._known[host]


def _proxy(url: str) -> Proxy:
    if "://" not in url:
        url = f"http://{url}"
    parts = urlsplit(url)
    if parts.username is None:
        return Proxy(url=url)
    auth = aiohttp.encode_basic_auth(unquote(parts.username), unquote(parts.password or ""))
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    return Proxy(url=bare.geturl(), headers={"Authorization": auth})

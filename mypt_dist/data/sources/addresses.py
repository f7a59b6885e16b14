"""Which URLs and which addresses may be asked? Nothing within private networks, unless the user says so."""

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from mypt_dist.data.sources.config import checked_url

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_DEFAULT_PORTS = {"https": 443, "http": 80}


class ForbiddenError(Exception):
    """Something that must not be asked for. The message is the reason."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be asked for."""

    url: str
    is_tls: bool
    host: str
    port: int
    path: str
    """With the query, as it goes into the request."""

    @property
    def host_header(self) -> str:
        """HOST, or HOST:PORT where the port is not the usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def scheme(self) -> str:
        """``https`` or ``http``."""
        return "https" if self.is_tls else "http"

    @property
    def origin(self) -> str:
        """For messages: without path and query."""
        return f"{self.scheme}://{self.host_header}"

    def is_in(self, hosts: frozenset[str]) -> bool:
        """Whether HOST or HOST:PORT is one of ``hosts``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host in hosts or f"{host}:{self.port}" in hosts


@dataclass(frozen=True, slots=True)
class AddressRules:
    """What was allowed besides https to public addresses."""

    plain: frozenset[str] = frozenset()
    """HOST or HOST:PORT that may be asked without TLS, or at a port of its own."""
    private: frozenset[str] = frozenset()
    """HOST or HOST:PORT that may also be at a private address."""

    def target(self, url: str) -> Target:
        """``url``, taken apart. Raises `ForbiddenError`."""
        try:
            parts = urlsplit(checked_url(url))
        except ValueError as error:
            raise ForbiddenError(str(error)) from None
        assert parts.hostname is not None, "checked_url has seen to it"
        host, port = parts.hostname.lower(), parts.port or _DEFAULT_PORTS[parts.scheme]
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        target = Target(url, parts.scheme == "https", host, port, path)
        allowed = target.is_in(self.plain | self.private)
        if not target.is_tls and not allowed:
            raise ForbiddenError(
                f"{target.origin} is not encrypted: use https, or allow it with --allow-host {target.host_header}"
            )
        if port != _DEFAULT_PORTS[parts.scheme] and not allowed:
            raise ForbiddenError(
                f"{target.origin} is not at the usual port: allow it with --allow-host {target.host_header}"
            )
        return target

    def check_address(self, target: Target, address: str) -> None:
        """Raises `ForbiddenError` where ``address``, to which the host was resolved, must not be connected to."""
        if not is_public(address) and not target.is_in(self.private):
            raise ForbiddenError(
                f"{target.host} is at {address}, which is not a public address: if you mean it, say "
                f"--allow-host {target.host_header}"
            )


def is_public(address: str) -> bool:
    """Whether everybody on the internet means the same by ``address``: not private, local, reserved or for many."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not ip.is_unspecified

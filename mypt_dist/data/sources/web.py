"""HTTP as far as downloads need it, on addresses that were checked.

`http.client` speaks the protocol. It follows no redirect, decodes nothing, keeps no cookies and reads no proxy from the
environment, so that what is checked is what happens.
"""

import http.client
import ipaddress
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.parse import urljoin

from mypt_dist.data.sources.addresses import AddressRules, ForbiddenError, Target
from mypt_dist.data.sources.pace import Transfer

MAX_REDIRECTS = 5
READ_BYTES = 1 << 16
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {
    "User-Agent": "mypt-dist",
    "Accept": "*/*",
    # What comes is what is hashed: a server must not pack it on the way.
    "Accept-Encoding": "identity",
    "Connection": "close",
}


class TransientError(Exception):
    """An attempt failed; another may succeed. The message is the reason."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        """What the server asks to wait."""


class Network:
    """The system's calls, one method each, so that a test can answer for it."""

    def resolve(self, host: str, port: int) -> list[str]:
        """The addresses of a host. Raises OSError."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    def connect(self, address: str, port: int, timeout_s: float) -> socket.socket:
        """A connection to an address, not to a name. Raises OSError."""
        ipaddress.ip_address(address.partition("%")[0])
        return socket.create_connection((address, port), timeout_s)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said. To be read before the connection is closed."""

    response: http.client.HTTPResponse
    transfer: Transfer

    @property
    def status(self) -> int:
        """The status code."""
        return self.response.status

    @property
    def length(self) -> int | None:
        """Bytes of the body; None where the server does not say."""
        return self.response.length

    @property
    def marks_its_end(self) -> bool:
        """Whether a body that is cut short can be told from a whole one."""
        return self.response.length is not None or bool(self.response.chunked)

    def header(self, name: str) -> str | None:
        """A header, None where it is missing."""
        return self.response.headers.get(name)

    def blocks(self) -> Iterator[bytes]:
        """The body. Raises `TransientError` where the connection ends or is ended in the middle."""
        left = self.length
        with _broken_connections(self.transfer):
            while block := self.response.read(READ_BYTES):
                self.transfer.arrived(len(block))
                left = None if left is None else left - len(block)
                yield block
        if self.transfer.broken:
            raise TransientError(self.transfer.broken)
        if left:
            raise TransientError(f"the connection ended {left:,} bytes before the end")


@dataclass(frozen=True, slots=True)
class Web:
    """Asks servers."""

    rules: AddressRules
    network: Network
    tls: ssl.SSLContext

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str], transfer: Transfer) -> Iterator[Answer]:
        """The answer to a request, after all redirects.

        Raises `ForbiddenError` for a URL or address that must not be asked for, at any point of the way, and
        `TransientError` where there is no answer.
        """
        with ExitStack() as open_now, transfer.watched():
            for _ in range(MAX_REDIRECTS + 1):
                open_now.close()
                target = self.rules.target(url)
                with _broken_connections(transfer):
                    response = self._ask(target, {**_HEADERS, **headers}, transfer, open_now)
                if transfer.broken:
                    # The end of the connection looks like the end of the headers.
                    raise TransientError(transfer.broken)
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or location is None:
                    yield Answer(response, transfer)
                    return
                url = _redirected(target, location)
            raise ForbiddenError(f"more than {MAX_REDIRECTS} redirects, the last to {self.rules.target(url).origin}")

    def _ask(
        self, target: Target, headers: Mapping[str, str], transfer: Transfer, open_now: ExitStack
    ) -> http.client.HTTPResponse:
        connection = open_now.enter_context(self._connected(target, transfer))
        connection.request("GET", target.path, headers={"Host": target.host_header, **headers})
        return open_now.enter_context(connection.getresponse())

    @contextmanager
    def _connected(self, target: Target, transfer: Transfer) -> Iterator[http.client.HTTPConnection]:
        with ExitStack() as open_now:
            connected = open_now.enter_context(self._connect(target, transfer.pace.connect_s))
            transfer.use(connected)
            if target.is_tls:
                # In two steps, so that the transfer can be ended while the two sides shake hands.
                connected = self.tls.wrap_socket(connected, server_hostname=target.host, do_handshake_on_connect=False)
                open_now.enter_context(connected)
                transfer.use(connected)
                connected.do_handshake()
            connected.settimeout(transfer.pace.idle_s)
            connection = http.client.HTTPConnection(target.host, target.port)
            connection.sock = connected
            yield connection

    def _connect(self, target: Target, timeout_s: float) -> socket.socket:
        """To the first of the host's addresses that answers. The address that is checked is the one connected to."""
        addresses = self.network.resolve(target.host, target.port)
        for address in addresses:
            self.rules.check_address(target, address)
        for last, address in enumerate(addresses, 1 - len(addresses)):
            try:
                return self.network.connect(address, target.port, timeout_s)
            except OSError:
                if not last:
                    raise
        raise OSError("the host has no address")


def _redirected(target: Target, location: str) -> str:
    url = urljoin(target.url, location)
    if target.is_tls and not url.startswith("https:"):
        raise ForbiddenError(f"{target.origin} redirects to {url[:80]!r}, which is not encrypted")
    return url


@contextmanager
def _broken_connections(transfer: Transfer) -> Iterator[None]:
    """What a connection fails with, as `TransientError`."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise ForbiddenError(f"its certificate is not valid: {error.verify_message}") from None
    except TimeoutError:
        pace = transfer.pace
        late = f"nothing came in time: {pace.connect_s:g} s to connect, {pace.idle_s:g} s for the next byte"
        raise TransientError(transfer.broken or late) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        # What a server says may be made for terminals: it is quoted.
        reason = ascii(str(error) or type(error).__name__).strip("'\"")[:200]
        raise TransientError(transfer.broken or reason) from None

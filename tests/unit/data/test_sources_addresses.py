"""Which addresses are asked: those that were checked, and no others."""

import datetime
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from faulty_server import CONTENT, FaultyServer, serving

from mypt_dist.data.sources.addresses import AddressRules, ForbiddenError, is_public
from mypt_dist.data.sources.pace import Pace, Transfer
from mypt_dist.data.sources.web import Network, TransientError, Web

PRIVATE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "100.127.255.255", "192.0.2.1", "198.18.0.1", "198.51.100.7", "203.0.113.9", "224.0.0.1",
    "239.255.255.255", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1",
    "fd12:3456::1", "fec0::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "2002:7f00:1::1", "2002:a00:1::1", "2001:0:4136:e378:8000:63bf:f5ff:fffe",
]  # fmt: skip
PUBLIC = [
    "93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:8.8.8.8",
    "64:ff9b::808:808", "2002:808:808::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_of_private_networks_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@dataclass
class Scripted(Network):
    """Names that mean what a test says, one answer after another."""

    answers: list[list[str]]
    really: int = 0
    """The port on this machine that every connection leads to."""
    connected: list[str] = field(default_factory=list)

    def resolve(self, host: str, port: int) -> list[str]:
        return self.answers.pop(0)

    def connect(self, address: str, port: int, timeout_s: float) -> socket.socket:
        self.connected.append(address)
        return socket.create_connection(("127.0.0.1", self.really), timeout_s)


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    with serving() as running:
        running.behaviours["/fine"] = lambda request, number: request.answer(CONTENT)
        yield running


def asked(web: Web, url: str) -> bytes:
    transfer = Transfer(Pace(), time.monotonic() + 60, threading.Event())
    with web.get(url, {}, transfer) as answer:
        return b"".join(answer.blocks())


def web(network: Network, **rules: frozenset[str]) -> Web:
    return Web(AddressRules(**rules), network, ssl.create_default_context())


def test_the_address_that_was_checked_is_the_one_connected_to(server: FaultyServer) -> None:
    network = Scripted([["93.184.216.34"], ["127.0.0.1"]], server.port)
    assert asked(web(network, plain=frozenset({"example.org"})), "http://example.org/fine") == CONTENT
    assert network.connected == ["93.184.216.34"]
    assert network.answers == [["127.0.0.1"]], "what the name means later is not asked for"


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["93.184.216.34", "10.0.0.1"], ["::ffff:169.254.169.254"]])
def test_a_name_that_leads_to_a_private_address_is_not_connected_to(server: FaultyServer, addresses: list[str]) -> None:
    network = Scripted([addresses], server.port)
    with pytest.raises(ForbiddenError, match="not a public address"):
        asked(web(network, plain=frozenset({"example.org"})), "http://example.org/fine")
    assert network.connected == []


def test_without_the_check_a_private_address_would_be_asked(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AddressRules, "check_address", lambda *_: None)
    network = Scripted([["127.0.0.1"]], server.port)
    assert asked(web(network, plain=frozenset({"example.org"})), "http://example.org/fine") == CONTENT


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "0177.0.0.1", "[::1]", "localhost"])
def test_however_it_is_spelled_this_machine_is_refused(host: str) -> None:
    with pytest.raises(ForbiddenError, match="not a public address"):
        asked(web(Network()), f"https://{host}/")


def test_the_second_address_is_tried_where_the_first_does_not_answer(server: FaultyServer) -> None:
    class HalfDead(Scripted):
        def connect(self, address: str, port: int, timeout_s: float) -> socket.socket:
            if address == "93.184.216.34":
                raise ConnectionRefusedError(111, "Connection refused")
            return super().connect(address, port, timeout_s)

    network = HalfDead([["93.184.216.34", "93.184.216.35"], ["93.184.216.34"]], server.port)
    rules = {"plain": frozenset({"example.org"})}
    assert asked(web(network, **rules), "http://example.org/fine") == CONTENT
    with pytest.raises(TransientError, match="Connection refused"):
        asked(web(network, **rules), "http://example.org/fine")


def test_a_host_is_allowed_for_its_port_alone() -> None:
    rules = AddressRules(private=frozenset({"10.0.0.1:8080", "[::1]:8080", "mirror"}))
    assert rules.target("http://10.0.0.1:8080/a?b#c").path == "/a?b"
    assert rules.target("https://mirror:8443/").host_header == "mirror:8443"
    assert rules.target("http://[::1]:8080/").host_header == "[::1]:8080"
    rules.check_address(rules.target("http://[::1]:8080/"), "::1")
    with pytest.raises(ForbiddenError, match="not encrypted"):
        rules.target("http://10.0.0.1/")
    with pytest.raises(ForbiddenError, match=r"is at 10\.0\.0\.1"):
        rules.check_address(rules.target("https://10.0.0.1/"), "10.0.0.1")


def test_a_plain_host_of_a_sources_file_must_be_public_all_the_same() -> None:
    rules = AddressRules(plain=frozenset({"intranet"}))
    with pytest.raises(ForbiddenError, match="--allow-host intranet"):
        rules.check_address(rules.target("http://intranet/"), "192.168.0.7")


def self_signed(folder: Path) -> Path:
    """A certificate for 127.0.0.1 and its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "certificate.pem"
    plain = serialization.NoEncryption()
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return pem


def test_a_server_must_prove_who_it_is(tmp_path: Path) -> None:
    pem = self_signed(tmp_path)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(pem)
    with serving(theirs) as server:
        server.behaviours["/fine"] = lambda request, number: request.answer(CONTENT)
        server.behaviours["/down"] = lambda request, number: request.answer(b"", 302, Location="http://127.0.0.1/")
        rules = AddressRules(private=frozenset({"127.0.0.1", server.host}))
        url = f"https://{server.host}/fine"
        with pytest.raises(ForbiddenError, match="certificate is not valid: self-signed"):
            asked(Web(rules, Network(), ssl.create_default_context()), url)
        trusting = Web(rules, Network(), ssl.create_default_context(cafile=str(pem)))
        assert asked(trusting, url) == CONTENT
        with pytest.raises(ForbiddenError, match=r"redirects to 'http://127\.0\.0\.1/', which is not encrypted"):
            asked(trusting, f"https://{server.host}/down")

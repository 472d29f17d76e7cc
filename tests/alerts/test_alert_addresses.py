"""F-126: a webhook cannot be pointed inside."""

import ipaddress
import socket

import pytest

from experiments_dagster.alerts import addresses
from experiments_dagster.alerts.addresses import (
    AddressRefusedError,
    check_address,
    check_url,
    resolve,
)
from experiments_dagster.alerts.transport import UrllibTransport, WireRequest

HOSTILE = [
    "169.254.169.254",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "0.0.0.0",
    "255.255.255.255",
    "240.0.0.1",
    "224.0.0.1",
    "127.0.0.1",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fec0::1",
    "ff02::1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:8.8.8.8",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "::7f00:1",
]


def answer(monkeypatch, *found):
    def getaddrinfo(host, port, **kwargs):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in found]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize("address", HOSTILE)
def test_name_resolving_inside_is_refused(monkeypatch, address):
    answer(monkeypatch, "93.184.216.34", address)
    with pytest.raises(AddressRefusedError):
        resolve("hooks.example.com", 443, allow_private=False)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"])
def test_public_address_passes(monkeypatch, address):
    answer(monkeypatch, address)
    assert resolve("hooks.example.com", 443, allow_private=False) == ((address, 443),)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/x",
        "ftp://hooks.example.com/x",
        "file:///etc/passwd",
        "gopher://127.0.0.1/x",
        "https://",
        "https:///path",
        "https://user:pass@hooks.example.com/",
        "https://hooks.example.com@169.254.169.254/",
        "https://hooks.example.com/#fragment",
        "https://hooks.example.com\\@10.0.0.1/",
        "https://hooks.example.com/\r\nX-Evil: 1",
        "https://hooks.example.com:99999/",
        "https://169.254.169.254/latest",
        "https://10.0.0.1/",
        "https://[::ffff:127.0.0.1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://localhost.example.com/",
        "http://127.0.0.1.example.com/",
        "https://[fe80::1]/",
    ],
)
def test_url_is_refused(url):
    with pytest.raises(AddressRefusedError) as caught:
        check_url(url)
    assert "pass@" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/services/T0/B0",
        "https://hooks.example.com:8443/x?y=1",
        "http://127.0.0.1:9000/hook",
        "http://localhost:9000/hook",
        "http://[::1]:9000/hook",
    ],
)
def test_url_passes(url):
    assert check_url(url).hostname


@pytest.mark.parametrize(
    "url",
    [
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0177.0.0.1/",
        "https://127.1/",
    ],
)
def test_number_that_means_loopback_is_refused_when_connecting(url):
    request = WireRequest(url=url, body=b"{}", headers={}, timeout_s=2)
    with pytest.raises(AddressRefusedError):
        UrllibTransport().post(request)


def test_localhost_that_resolves_elsewhere_is_refused(monkeypatch):
    answer(monkeypatch, "10.0.0.1")
    with pytest.raises(AddressRefusedError, match="loopback host resolves"):
        resolve("localhost", 80, allow_private=True)


def test_allow_private_opens_private_but_not_link_local():
    host = "alerts.internal"
    for address in ("10.0.0.1", "192.168.1.1", "fd00::1", "127.0.0.1"):
        check_address(ipaddress.ip_address(address), host=host, allow_private=True)
    for address in ("169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "0.0.0.0"):
        with pytest.raises(AddressRefusedError):
            check_address(ipaddress.ip_address(address), host=host, allow_private=True)


def test_second_answer_of_the_name_server_changes_nothing(monkeypatch):
    """The address that was checked is the one connected to."""
    port = 8443
    asked, connected = [], []

    def getaddrinfo(host, port, **kwargs):
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", port))]

    def create_connection(address, **kwargs):
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(addresses.socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket, "create_connection", create_connection)
    request = WireRequest(
        url=f"https://rebind.example.com:{port}/", body=b"{}", headers={}, timeout_s=2
    )
    with pytest.raises(Exception, match="ConnectionRefusedError"):
        UrllibTransport().post(request)
    assert asked == ["rebind.example.com"]
    assert connected == [("93.184.216.34", port)]

"""Where an alert may be sent: rules for web addresses and for what they resolve to (F-126).

- https, except to a loopback host written as such (`localhost`, 127.0.0.0/8, `::1`);
- no user information, no fragment, no control characters;
- every resolved address is public. `allow_private` lets private and loopback ranges through;
  link-local addresses (cloud metadata), multicast and unspecified ones stay refused.

The address that was checked is the one connected to (`transport`), so a second answer of the name
server changes nothing. Messages name the rule, never the address line: it may hold a token.
"""

import ipaddress
import re
import socket
from urllib.parse import SplitResult, urlsplit

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# Ranges that carry an IPv4 address inside an IPv6 one: NAT64 and 6to4, Teredo.
_EMBEDDING_NETWORKS = tuple(
    ipaddress.IPv6Network(network)
    for network in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")
)


class AddressRefusedError(ValueError):
    """An alert must not be sent there; the message names the rule."""


def check_url(url: str, *, allow_private: bool = False) -> SplitResult:
    """Check the form of `url` and return its parts.

    Raises:
        AddressRefusedError: A rule of the module docstring is broken.
    """
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise AddressRefusedError("address holds blanks, control characters or backslashes")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise AddressRefusedError("address is not well formed") from None
    if not host:
        raise AddressRefusedError("address has no host")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise AddressRefusedError("address holds user information or a fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback_host(host)):
        raise AddressRefusedError("address is not https (http is for loopback hosts only)")
    literal = _literal(host)
    if literal is not None:
        check_address(literal, host=host, allow_private=allow_private)
    return parts


def is_loopback_host(host: str) -> bool:
    """Tell whether `host` is written as a loopback host (not merely resolving to one)."""
    literal = _literal(host)
    if literal is None:
        return host.lower() == "localhost"
    return literal.is_loopback and not _is_mapped(literal)


def check_address(address: IpAddress, *, host: str, allow_private: bool) -> None:
    """Refuse an address that `host` must not reach.

    Raises:
        AddressRefusedError: It is not public and not allowed otherwise.
    """
    if is_loopback_host(host):
        if not address.is_loopback or _is_mapped(address):
            raise AddressRefusedError("loopback host resolves to another address")
        return
    inner = _unmapped(address)
    if inner.is_link_local or inner.is_multicast or inner.is_unspecified:
        raise AddressRefusedError("host resolves to a link-local, multicast or unspecified address")
    if not allow_private and (_is_mapped(address) or not _is_public(address)):
        raise AddressRefusedError("host resolves to a private, loopback or reserved address")


def resolve(host: str, port: int, *, allow_private: bool) -> tuple[tuple[str, int], ...]:
    """Return the checked (address, port) pairs of `host`; one bad address refuses them all.

    Raises:
        AddressRefusedError: One of the addresses is not allowed.
        OSError: The name does not resolve.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        check_address(ipaddress.ip_address(address), host=host, allow_private=allow_private)
    return tuple((address, port) for address in addresses)


def _literal(host: str) -> IpAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_mapped(address: IpAddress) -> bool:
    return isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None


def _unmapped(address: IpAddress) -> IpAddress:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _is_public(address: IpAddress) -> bool:
    if not address.is_global or address.is_reserved:
        return False
    return isinstance(address, ipaddress.IPv4Address) or not (
        address.is_site_local or any(address in network for network in _EMBEDDING_NETWORKS)
    )

"""Judge the addresses that users and models supply, before anything is called. Pure: it resolves and opens nothing.

Rules

1. A URL is read once, by a grammar that is stricter than any client's. What two readers could understand
   differently (odd numbers, backslashes, credentials, letters outside ASCII in a host) is refused, not decoded.
2. An address is public, or private (what an operator may allow by naming its host), or never called.
3. What is not known to be public is refused: of IPv6 only global unicast counts, and an address that carries an
   IPv4 address is no better than what it carries.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Literal, NamedTuple
from urllib.parse import quote

from treadle.errors import OutboundRefused
from treadle.text import is_sound

MAX_URL_CHARACTERS = 8192
STRANGERS_PORTS = frozenset({80, 443, 8080, 8443})
"""Ports that are called on hosts that no operator named: those where pages are served, and no other service."""
DEFAULT_PORTS = {"http": 80, "https": 443}

Standing = Literal["public", "private", "never"]


class Judgement(NamedTuple):
    """What an address is: whether it may be called, and in words what kind it is of."""

    standing: Standing
    kind: str


class Target(NamedTuple):
    """A URL that was read.

    Shapes: `host` is a name in lower case without a dot at its end, or an IP address as it is usually written,
    without brackets; `path` has the query with it, in ASCII.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Give host and port as the Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """Give the whole URL."""
        return f"{self.scheme}://{self.authority}{self.path}"


_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?(?:\#.*)?"
)
_STRANGE = re.compile(r"[\x00-\x20\x7f\\]")
_LITERAL = re.compile(r"\[(?P<host>[0-9A-Fa-f:.]+)\](?::(?P<port>[0-9]*))?")
_NAMED = re.compile(r"(?P<host>[^:\[\]]+)(?::(?P<port>[0-9]*))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_KEPT = "!$&'()*+,;=:@/?%"

METADATA_NAMES = frozenset({
    "metadata", "metadata.google.internal", "metadata.goog", "metadata.azure.internal", "metadata.tencentyun.com",
    "metadata.packet.net", "metadata.platformequinix.com", "instance-data", "instance-data.ec2.internal",
})  # fmt: skip
METADATA = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254", "169.254.170.2", "169.254.170.23", "168.63.129.16", "100.100.100.200", "192.0.0.192",
        "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:42::42",
    )
)  # fmt: skip
"""Addresses at which clouds tell their machines secrets; nobody can allow them."""

_V4_ROWS: tuple[tuple[str, Standing, str], ...] = (
    ("0.0.0.0/8", "never", "an unspecified address"),
    ("10.0.0.0/8", "private", "a private address"),
    ("100.64.0.0/10", "private", "an address behind a carrier's NAT"),
    ("127.0.0.0/8", "private", "a loopback address"),
    ("169.254.0.0/16", "never", "a link-local address"),
    ("172.16.0.0/12", "private", "a private address"),
    ("192.0.0.0/24", "never", "a reserved address"),
    ("192.0.2.0/24", "never", "an address for documentation"),
    ("192.88.99.0/24", "never", "a 6to4 relay"),
    ("192.168.0.0/16", "private", "a private address"),
    ("198.18.0.0/15", "private", "an address for benchmarks"),
    ("198.51.100.0/24", "never", "an address for documentation"),
    ("203.0.113.0/24", "never", "an address for documentation"),
    ("224.0.0.0/4", "never", "a multicast address"),
    ("240.0.0.0/4", "never", "a reserved address"),
)
_V6_ROWS: tuple[tuple[str, Standing, str], ...] = (
    ("::/128", "never", "an unspecified address"),
    ("::1/128", "private", "a loopback address"),
    ("64:ff9b:1::/48", "never", "a translated address of local use"),
    ("2001::/23", "never", "a reserved address"),
    ("2001:db8::/32", "never", "an address for documentation"),
    ("3fff::/20", "never", "an address for documentation"),
    ("fc00::/7", "private", "a private address"),
    ("fe80::/10", "never", "a link-local address"),
    ("fec0::/10", "never", "a site-local address"),
    ("ff00::/8", "never", "a multicast address"),
)
_V4 = tuple((IPv4Network(network), Judgement(standing, kind)) for network, standing, kind in _V4_ROWS)
_V6 = tuple((IPv6Network(network), Judgement(standing, kind)) for network, standing, kind in _V6_ROWS)
_MAPPED = IPv6Network("::ffff:0:0/96")
_COMPATIBLE = IPv6Network("::/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_6TO4 = IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")
_GLOBAL = IPv6Network("2000::/3")
_ISATAP_ID = 0x00005EFE
_ISATAP_MASK = 0xFDFFFFFF


def read_url(url: str) -> Target:
    """Read an http or https URL; its fragment is left out.

    Errors: OutboundRefused for another scheme, credentials, and whatever is not spelled in the usual way.
    """
    if len(url) > MAX_URL_CHARACTERS:
        raise OutboundRefused(reason=f"is longer than {MAX_URL_CHARACTERS} characters")
    found = _URL.fullmatch(url) if is_sound(url) and not _STRANGE.search(url) else None
    if found is None:
        raise OutboundRefused(reason="is no URL as they are usually written", hint="write https://host/path")
    scheme = found["scheme"].lower()
    if scheme not in DEFAULT_PORTS:
        raise OutboundRefused(reason=f"has the scheme '{scheme[:20]}'", hint="only http and https are called")
    host, port = _authority(found["authority"])
    path = quote(found["path"] or "/", safe=_KEPT) + quote(found["query"] or "", safe=_KEPT)
    return Target(scheme, host, DEFAULT_PORTS[scheme] if port is None else port, path)


def _authority(text: str) -> tuple[str, int | None]:
    if "@" in text:
        raise OutboundRefused(reason="has credentials in it", hint="leave out what stands before the @")
    if "%" in text:
        raise OutboundRefused(reason="has a % in its host", hint="write the host without zone and escapes")
    if not text.isascii():
        raise OutboundRefused(
            reason="has a host with letters outside ASCII", hint="write its form that begins with xn--"
        )
    literal = _LITERAL.fullmatch(text)
    found = literal or _NAMED.fullmatch(text)
    if found is None:
        raise OutboundRefused(
            reason="has no host, or one that cannot be read", hint="write https://host/path"
        )
    port = int(found["port"]) if found["port"] and len(found["port"]) <= 5 else None
    if found["port"] and (port is None or not 1 <= port <= 65535):
        raise OutboundRefused(reason="has a port that does not exist", hint="ports are 1 to 65535")
    return _six(found["host"]) if literal else _name(found["host"]), port


def _six(text: str) -> str:
    try:
        return str(IPv6Address(text))
    except ValueError:
        raise OutboundRefused(reason="has an IPv6 address that cannot be read") from None


def _name(text: str) -> str:
    host = text.lower().removesuffix(".")
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        # Hazard: some read 0177.1 and 2130706433 as addresses, others as names, and octal as decimal.
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise OutboundRefused(
                reason="has an IPv4 address in an unusual spelling", hint="write four decimal numbers"
            ) from None
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise OutboundRefused(reason="has a host that is no name", hint="write https://host/path")
    return host


def check_target(target: Target, *, named: Collection[str] = (), only_named: bool = False) -> None:
    """Refuse what can be refused before a name is resolved: its port, a name or an address that is never called.

    Shapes: `named` as in `is_named`; with `only_named` every other host is refused.
    Errors: OutboundRefused.
    """
    if target.host in METADATA_NAMES:
        raise OutboundRefused(target.host, "is where a cloud keeps its machines' secrets")
    is_known = is_named(target, named)
    if only_named and not is_known:
        raise OutboundRefused(
            target.host,
            "is not named by the operator",
            hint="name it in the project file, under allow: hosts:",
        )
    if target.port not in STRANGERS_PORTS and not is_known:
        ports = ", ".join(str(p) for p in sorted(STRANGERS_PORTS))
        raise OutboundRefused(
            target.host,
            f"has the port {target.port}",
            hint=f"the ports are {ports}; an operator can name the host under allow: hosts:",
        )
    if (address := literal(target.host)) is not None:
        check_address(target.host, address, is_named=is_known)


def check_address(host: str, address: str, *, is_named: bool) -> None:
    """Refuse an address of a host that must not be called; the address itself is not told.

    Errors: OutboundRefused.
    """
    standing, kind = judge(address)
    if standing == "public" or (standing == "private" and is_named):
        return
    verb = "is" if literal(host) is not None else "leads to"
    hint = "an operator can name the host under allow: hosts:" if standing == "private" else None
    raise OutboundRefused(host, f"{verb} {kind}", hint=hint)


def is_named(target: Target, named: Collection[str]) -> bool:
    """Tell whether an operator named the host of a target: `host` for all of its ports, or `host:port`."""
    bracketed = f"[{target.host}]" if ":" in target.host else target.host
    known = {target.host, bracketed, f"{bracketed}:{target.port}"}
    return any(name.lower() in known for name in named)


def literal(host: str) -> str | None:
    """Give a host that is an IP address, None for a name."""
    try:
        return str(ip_address(host))
    except ValueError:
        return None


def judge(address: str) -> Judgement:
    """Say what an IP address is, IPv4 or IPv6; a text that is none is never called."""
    if "%" in address:
        return Judgement("never", "an address of one network interface")
    try:
        found = ip_address(address)
    except ValueError:
        return Judgement("never", "no address")
    return _four(found) if isinstance(found, IPv4Address) else _judge_six(found)


def _four(address: IPv4Address) -> Judgement:
    if address in METADATA:
        return Judgement("never", "an address where a cloud keeps its machines' secrets")
    for network, judgement in _V4:
        if address in network:
            return judgement
    return Judgement("public", "a public address")


def _judge_six(address: IPv6Address) -> Judgement:
    if address in METADATA:
        return Judgement("never", "an address where a cloud keeps its machines' secrets")
    last = IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _MAPPED or address in _NAT64:
        return _four(last)
    if address in _TEREDO:
        return Judgement("never", "a tunnel's address")
    if address in _6TO4:
        inner = _four(IPv4Address(int(address) >> 80 & 0xFFFFFFFF))
        return Judgement("never", "a tunnel's address" if inner.standing == "public" else inner.kind)
    for network, judgement in _V6:
        if address in network:
            return judgement
    if address in _COMPATIBLE:
        inner = _four(last)
        return Judgement("never", "a reserved address" if inner.standing == "public" else inner.kind)
    if address not in _GLOBAL:
        return Judgement("never", "a reserved address")
    if int(address) >> 32 & _ISATAP_MASK == _ISATAP_ID and (inner := _four(last)).standing != "public":
        return Judgement("never", inner.kind)
    return Judgement("public", "a public address")

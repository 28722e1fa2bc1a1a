"""Where a process is called: what it listens on, or, where that is every address of the machine, one that others reach.

`0.0.0.0` in the registry would send each caller to its own machine.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable

import psutil

from dougong.app._settings import RunSettings
from dougong.errors import Invalid

__all__ = ["advertised_grpc", "advertised_http", "bracketed", "check_advertise", "machine_address"]

_SOMEWHERE = {4: (socket.AF_INET, "198.51.100.1"), 6: (socket.AF_INET6, "2001:db8::1")}
"""Nobody's addresses (RFC 5737, 3849), to ask which way is out: a datagram socket that connects sends nothing."""
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?", re.ASCII)

Find = Callable[[int], str]
"""From an IP version, 4 or 6, to an address of this machine; empty when there is none."""


def machine_address(version: int) -> str:
    """The address from which this machine would reach others: that of the way out, or the only one that is up."""
    family, somewhere = _SOMEWHERE[version]
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((somewhere, 9))
            found = {str(probe.getsockname()[0])}
    except OSError:  # no way out: machines of one closed network
        up = {name for name, state in psutil.net_if_stats().items() if state.isup}
        found = {
            a.address
            for name, all_of in psutil.net_if_addrs().items()
            if name in up
            for a in all_of
            if a.family == family
        }
    called = [address for address in found if _callable(address)]
    return called[0] if len(called) == 1 else ""  # of several, who is to say which


def check_advertise(settings: RunSettings, find: Find = machine_address) -> None:
    """Raise `Invalid` (`bad_advertise`, `no_address`) when others could not be told where to call this process."""
    advertised_grpc(settings, f"{bracketed(settings.host)}:{settings.port}", find)


def advertised_grpc(settings: RunSettings, listening: str, find: Find = machine_address) -> str:
    """`host:port` for the registry, of a process whose gRPC is `listening` there. Raises as `check_advertise`."""
    host, _, port = listening.rpartition(":")
    if settings.advertise:
        said, said_port = _split(settings.advertise)
        if said_port and not settings.port:
            raise _bad(
                settings.advertise, "it has a port, but DOUGONG_PORT is not set, so what listens is never the same"
            )
        return f"{bracketed(said)}:{said_port or port}"
    if not _is_wildcard(host):
        return listening
    # gRPC on all addresses of IPv6 takes calls to those of IPv4 as well.
    found = find(4) if _bare(host) == "0.0.0.0" else find(6) or find(4)  # noqa: S104 (compared, not bound)
    if not found:
        raise Invalid(
            f"DOUGONG_HOST={host} is every address of this machine, and no single one was found at which others reach"
            " it: set DOUGONG_ADVERTISE to a host or address, or DOUGONG_HOST to one of its addresses",
            code="no_address",
        )
    return f"{bracketed(found)}:{port}"


def advertised_http(settings: RunSettings, host: str, port: int, find: Find = machine_address) -> str:
    """`host:port` for the registry, of HTTP that listens on `host`: for people and metrics, so as good as can be."""
    if _is_wildcard(host):
        host = _split(settings.advertise)[0] if settings.advertise else find(6 if ":" in host else 4) or host
    return f"{bracketed(host)}:{port}"


def bracketed(host: str) -> str:
    """As it stands before a port.

    >>> bracketed("::1"), bracketed("[::1]"), bracketed("shop.example")
    ('[::1]', '[::1]', 'shop.example')
    """
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _split(advertise: str) -> tuple[str, int]:
    """Host and port, 0 without one."""
    host, _, port = advertise.rpartition(":")
    if not host or advertise.endswith("]") or (":" in host and not host.endswith("]")):  # no port, or IPv6 as it is
        host, port = advertise, "0"
    if not (port.isascii() and port.isdigit() and int(port) < 65_536) or advertise.endswith(":0"):
        raise _bad(advertise, "its port is none")
    host = _bare(host)
    if _is_wildcard(host):
        raise _bad(advertise, "that is every address and none")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not _HOST_NAME.fullmatch(host):
            raise _bad(advertise, "its host is neither a name nor an address") from None
    return host, int(port)


def _bad(advertise: str, why: str) -> Invalid:
    return Invalid(
        f"DOUGONG_ADVERTISE={advertise!r}: {why}. It is the host, or host:port, at which others call this process, e.g."
        " 10.1.2.3 or [fd00::2]:7001",
        code="bad_advertise",
    )


def _bare(host: str) -> str:
    return host.removeprefix("[").removesuffix("]")


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(_bare(host)).is_unspecified
    except ValueError:
        return not host


def _callable(address: str) -> bool:
    known = ipaddress.ip_address(address)
    return not (known.is_unspecified or known.is_loopback or known.is_link_local)

"""Whose request this is: the address at the other end, or the one that proxies of ours say they got it from.

`X-Forwarded-For` is a list to which every proxy on the way adds whom it heard from, and to which a client can write
anything before. So it is read from the right, as long as the one who wrote is trusted; what is left of that is hearsay.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from dougong.errors import Invalid

__all__ = ["Proxies"]

_HEADER = b"x-forwarded-for"
_Address = IPv4Address | IPv6Address
_HOPS_MAX = 32


class Proxies:
    """Networks whose `X-Forwarded-For` is believed; with none of them, the peer is the client.

    Raises `Invalid` (`bad_network`) for what is no network, such as `10.0.0.0/8` or a single address.
    """

    def __init__(self, trusted: Sequence[str] = ()) -> None:
        networks: list[IPv4Network | IPv6Network] = []
        for text in trusted:
            try:
                networks.append(ip_network(text))
            except ValueError as error:
                raise Invalid(
                    f"trusted proxy {text!r} is no network: write an address or e.g. 10.0.0.0/8 ({error})",
                    code="bad_network",
                ) from None
        self._networks = tuple(networks)

    def client(self, peer: str, headers: Sequence[tuple[bytes, bytes]]) -> str:
        """The client's IP address; empty when the server does not know its peer."""
        if not self._networks:
            return peer
        nearest = _parsed(peer)
        if nearest is None:
            return peer
        hops = [hop for name, value in headers if name == _HEADER for hop in value.split(b",")]
        for hop in reversed(hops[-_HOPS_MAX:]):
            if not self._trusts(nearest):
                break
            said = _parsed(hop.decode("latin-1").strip())
            if said is None:
                break  # a trusted proxy that says nothing of use: it is all we know
            nearest = said
        return str(nearest)

    def trusts(self, peer: str) -> bool:
        """Whether what that address says about its clients is believed."""
        address = _parsed(peer)
        return address is not None and self._trusts(address)

    def _trusts(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)


def _parsed(text: str) -> _Address | None:
    """An address as proxies write it: bare, `[v6]`, with a port, or v4 in v6's clothes."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address

"""Is the port free, and if not, who has it."""

from __future__ import annotations

import socket

import psutil

from dougong.errors import Conflict, Invalid

__all__ = ["check_port", "parse_address"]


def parse_address(address: str, setting: str) -> tuple[str, int]:
    """Host and port of `host:port`. Raises `Invalid` naming the setting."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise Invalid(
            f"{setting}: {address!r} is not host:port with a port from 0 to 65535, e.g. 127.0.0.1:8080",
            code="bad_address",
        )
    return host.strip("[]"), int(port)


def check_port(address: str, who: str, setting: str) -> None:
    """Raise `Conflict` when `who` could not listen on `address`; `setting` says where to change it."""
    host, port = parse_address(address, setting or who)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Conflict(
                f"{who} wants {address}: {error.strerror}{_holder(port)}; stop who has it, or set another ({setting})",
                code="port_taken",
                address=address,
            ) from error


def _holder(port: int) -> str:
    """Who listens there, as far as we may know."""
    try:
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if listens and connection.pid:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except (psutil.Error, OSError):
        pass  # somebody else's process, or not our right to know
    return ""

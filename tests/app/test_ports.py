"""Addresses and who has them."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.app import check_port, parse_address
from dougong.errors import Conflict, Invalid


@pytest.mark.parametrize(
    ("address", "parsed"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_host_and_port(address: str, parsed: tuple[str, int]) -> None:
    assert parse_address(address, "x") == parsed


@pytest.mark.parametrize(
    "address", ["", "8080", ":8080", "host:", "host:http", "host:-1", "host:65536", "host:٣", "a:b:c"]
)
def test_anything_else_is_refused_by_its_setting(address: str) -> None:
    with pytest.raises(Invalid, match=r"--console: .* is not host:port"):
        parse_address(address, "--console")


@given(st.text())
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        host, port = parse_address(text, "x")
    except Invalid:
        return
    assert host or text.startswith("[")
    assert 0 <= port <= 65535


def test_a_taken_port_names_who_wants_it_and_who_has_it() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(Conflict, match="edge wants") as caught:
            check_port(address, "edge", "http of [apps.edge] in system.toml")
    assert caught.value.code == "port_taken"
    assert address in caught.value.message
    assert f"by process {os.getpid()}" in caught.value.message
    assert "http of [apps.edge] in system.toml" in caught.value.message
    check_port(address, "edge", "")  # free again


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(Conflict, match="edge wants 192"):
        check_port("192.0.2.1:80", "edge", "")

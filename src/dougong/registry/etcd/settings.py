"""Where the cluster is and how to talk to it, from a URL."""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from dougong.errors import Invalid

PORT = 2379
ENDPOINTS_MAX = 32
_SECONDS = {"timeout_s", "attempt_s", "silence_s"}
INSECURE_VARIABLE = "DOUGONG_INSECURE_NETWORK"
_TEXTS = {"user", "password_env", "namespace", "ca", "cert", "key"}


class EtcdSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What `etcd://HOST:PORT,HOST:PORT?OPTION=…` says. Its `repr` keeps the password to itself."""

    endpoints: tuple[str, ...]
    timeout_s: float = 5.0
    """A call that no endpoint has answered by then is `Unavailable`, and so is a watch that cannot be resumed."""
    attempt_s: float = 0.3
    """How long one endpoint may take before the next is asked. Grows when all were asked twice."""
    silence_s: float = 1.0
    """A watch that hears nothing asks for a sign of life after this long, and goes elsewhere after thrice as long."""
    user: str = ""
    password: str = ""
    namespace: str = ""
    """Stands before every key: several systems on one cluster."""
    tls: bool = False
    ca: str = ""
    """File with the authorities to trust; empty for the system's."""
    cert: str = ""
    key: str = ""

    def __repr__(self) -> str:
        return f"EtcdSettings({','.join(self.endpoints)}, user={self.user!r}, namespace={self.namespace!r})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("endpoints", self.endpoints)]

    @classmethod
    def parse(
        cls, url: str, environment: Mapping[str, str] = os.environ, *, insecure_network: bool = False
    ) -> EtcdSettings:
        """Raises `Invalid` that names what is wrong, without saying any password.

        The code is `registry_url`, or `insecure_network` for a password that would go to another machine in the clear;
        `insecure_network`, or DOUGONG_INSECURE_NETWORK in the environment, says that it may.
        """
        try:
            parts = urlsplit(url)
        except ValueError:  # its words repeat the hosts, with the password before them
            raise _refuse("it cannot be taken apart; brackets and special characters are written as %XX") from None
        login, _, hosts = parts.netloc.rpartition("@")
        if parts.scheme not in {"etcd", "etcds"}:
            raise _refuse(f"scheme {parts.scheme!r} is neither etcd nor etcds")
        if parts.path not in {"", "/"} or parts.fragment:
            raise _refuse("it has a path or a fragment; a prefix for all keys is ?namespace=/…, / in a password is %2F")
        options: dict[str, str] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name not in _SECONDS | _TEXTS:
                said = repr(name) if name.isidentifier() else "with special characters"  # perhaps a piece of a password
                raise _refuse(f"option {said} is unknown; there are {', '.join(sorted(_SECONDS | _TEXTS))}")
            if name in options:
                raise _refuse(f"option {name!r} stands there twice")
            options[name] = value
        user, password = _login(login, options, environment)
        cert, key = options.get("cert", ""), options.get("key", "")
        if bool(cert) != bool(key):
            raise _refuse("cert and key go together: a certificate without its key proves nothing")
        namespace = options.get("namespace", "")
        if "\0" in namespace:
            raise _refuse("namespace contains NUL")
        endpoints, tls = _endpoints(hosts), parts.scheme == "etcds" or bool(options.get("ca") or cert)
        if password and not (tls or insecure_network or _insecure_network(environment)):
            _check_loopback(endpoints)
        return cls(
            endpoints=endpoints,
            user=user,
            password=password,
            namespace=namespace,
            tls=tls,
            ca=options.get("ca", ""),
            cert=cert,
            key=key,
            **{name: _seconds(name, options[name]) for name in sorted(_SECONDS & options.keys())},
        )


def _login(login: str, options: Mapping[str, str], environment: Mapping[str, str]) -> tuple[str, str]:
    user, colon, password = login.partition(":")
    user, password = unquote(user), unquote(password)
    if user and "user" in options:
        raise _refuse("user stands there twice: before the hosts and as an option")
    user = user or options.get("user", "")
    variable = options.get("password_env", "")
    if variable:
        if colon:
            raise _refuse("password stands there twice: before the hosts and as password_env")
        if variable not in environment:
            raise _refuse(f"environment variable {variable!r} (password_env) is not set")
        password = environment[variable]
    if bool(user) != bool(password):
        raise _refuse("user and password go together: USER:PASSWORD@ before the hosts, or user=…&password_env=NAME")
    return user, password


def _endpoints(hosts: str) -> tuple[str, ...]:
    found: list[str] = []
    for number, host in enumerate(hosts.split(","), 1):  # which is not repeated: it may be a password that lacks its @
        name, port = host, str(PORT)
        if ":" in host and not host.endswith("]"):
            name, _, port = host.rpartition(":")
        if not name or (":" in name and not (name[0] == "[" and name[-1] == "]")):
            raise _refuse(f"endpoint {number} is not host:port (IPv6 addresses stand in brackets)")
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
            raise _refuse(f"endpoint {number} has no valid port")
        found.append(f"{name}:{int(port)}")
    if len(set(found)) != len(found) or len(found) > ENDPOINTS_MAX:
        raise _refuse(f"{len(found)} endpoints; they must differ, and be {ENDPOINTS_MAX} at most")
    return tuple(found)


def _insecure_network(environment: Mapping[str, str]) -> bool:
    try:
        return msgspec.convert(environment.get(INSECURE_VARIABLE, "false"), bool, strict=False)
    except msgspec.ValidationError:
        raise _refuse(f"environment variable {INSECURE_VARIABLE} is neither true nor false") from None


def _check_loopback(endpoints: tuple[str, ...]) -> None:
    for number, endpoint in enumerate(endpoints, 1):
        host = endpoint.rpartition(":")[0]
        try:
            here = ipaddress.ip_address(host.strip("[]")).is_loopback
        except ValueError:
            here = host == "localhost"
        if not here:
            raise Invalid(
                f"etcd registry URL: endpoint {number} is another machine; the password would go there as anybody on"
                f" the way can read it. Write etcds:// (or add ca=FILE) for TLS; or set {INSECURE_VARIABLE}=true where"
                " something else protects the network",
                code="insecure_network",
            )


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.01 <= seconds <= 600:
        raise _refuse(f"{name} {text!r} is not a number of seconds from 0.01 to 600")
    return seconds


def _refuse(why: str) -> Invalid:
    return Invalid(
        f"etcd registry URL: {why}; the form is etcd://host:2379,host2:2379?namespace=/name", code="registry_url"
    )

"""What `mysql://user:password@host:3306/orders?readers=8` means; the password is never shown again."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import msgspec

from dougong.config import Secret
from dougong.errors import Invalid

__all__ = ["ServerOptions", "parse_server_url", "redacted"]


class ServerOptions(msgspec.Struct, frozen=True):
    """How one database on a server is reached. The defaults are the safe ones: acknowledged means synced."""

    dialect: str
    host: str
    """Empty with a socket."""
    port: int
    user: str
    password: Secret
    database: str
    socket: str = ""
    """MySQL: the socket's path; PostgreSQL: the directory it is in."""
    durability: str = "full"
    """`full`: the server has to sync every commit. `relaxed` may lose acknowledged writes when the machine stops."""
    lock_timeout_s: float = 5.0
    """How long to wait while another process writes, before `Unavailable` (code `locked`)."""
    statement_timeout_s: float = 30.0
    connect_timeout_s: float = 5.0
    readers: int = 4
    """Connections for reading, made when needed."""
    acquire_timeout_s: float = 10.0
    """How long to wait for one of them, before `Unavailable` (code `no_connection_free`)."""
    life_s: float = 1800.0
    """Connections are replaced after about so long, so that none outlives what a proxy or a failover left behind."""
    idle_s: float = 300.0
    """Connections that nobody needed for so long are closed."""
    leak_after_s: float = 10.0
    """Who keeps a connection for longer is named in the log."""
    tls_ca: str = ""
    """Certificate authority of the server: then TLS is demanded and its certificate and name are checked."""

    @property
    def where(self) -> str:
        """The database for messages."""
        user = f"{quote(self.user)}@" if self.user else ""
        place = f"{self.host}:{self.port}" if not self.socket else f"{self.socket}:"
        return f"{self.dialect}://{user}{place}/{self.database}"


def _among(*values: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in values:
            raise ValueError
        return text

    return check


def _seconds(text: str) -> float:
    if not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text) or float(text) <= 0:
        raise ValueError
    return float(text)


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,2}", text):
        raise ValueError
    return int(text)


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError
    return text


_OPTIONS: dict[str, tuple[str, Callable[[str], str | float | int]]] = {
    "durability": ("full|relaxed", _among("full", "relaxed")),
    "lock_timeout_s": ("5", _seconds),
    "statement_timeout_s": ("30", _seconds),
    "connect_timeout_s": ("5", _seconds),
    "readers": ("4", _count),
    "acquire_timeout_s": ("10", _seconds),
    "life_s": ("1800", _seconds),
    "idle_s": ("300", _seconds),
    "leak_after_s": ("10", _seconds),
    "tls_ca": ("/path/ca.pem", _path),
}
_SOCKETS = {"mysql": ("unix_socket", "/path/to.sock"), "postgresql": ("host", "/directory")}
_PORTS = {"mysql": 3306, "postgresql": 5432}


def parse_server_url(url: str) -> ServerOptions:
    """SQLAlchemy's convention: `mysql://user:password@host:port/database?option=value`.

    User and password are quoted as URLs quote (`p%40ss`). A socket is an option: `unix_socket=/path` for MySQL,
    `host=/directory` for PostgreSQL. Anything not understood is refused (`Invalid`, code `bad_database_url`).
    """
    dialect = url.partition(":")[0]
    example = f"{dialect}://user:password@host:{_PORTS[dialect]}/database"
    try:
        parts = urlsplit(url)
        port = parts.port
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:  # whose text may quote a piece of the password
        raise _bad(url, f"write {example}; quote special characters in the password (@ is %40, / is %2F)") from None
    database = unquote(parts.path)[1:]
    if not url.startswith(f"{dialect}://") or parts.fragment or not database or "/" in database:
        raise _bad(url, f"write {example}; quote special characters in the password (@ is %40, / is %2F, # is %23)")
    found: dict[str, object] = {}
    socket_option, socket_example = _SOCKETS[dialect]
    for name, text in options:
        if name == socket_option and text.startswith("/"):
            found["socket"] = text
        elif dialect == "postgresql" and name == "port" and text.isdigit():
            port = int(text)
        elif name in _OPTIONS:
            shape, read = _OPTIONS[name]
            try:
                found[name] = read(text)
            except ValueError:
                raise _bad(url, f"option {name}={text} is not like {name}={shape}") from None
        else:
            known = ", ".join([*_OPTIONS, f"{socket_option}={socket_example}"])
            raise _bad(url, f"option {name} is unknown; there are {known}")
    host = parts.hostname or ""
    if not host and "socket" not in found:
        raise _bad(url, f"no host and no socket; write {example}, or add ?{socket_option}={socket_example}")
    return msgspec.convert(
        {
            "dialect": dialect,
            "host": host,
            "port": port or _PORTS[dialect],
            "user": unquote(parts.username or ""),
            "password": Secret(unquote(parts.password or "")),
            "database": database,
            **found,
        },
        ServerOptions,
    )


def redacted(url: str) -> str:
    """A database URL without its password, for messages; also for text that is none."""
    try:
        parts = urlsplit(url)
        has_password = parts.password is not None
    except ValueError:
        has_password = True
    if not has_password and "@" not in url:
        return url
    head, at, tail = url.rpartition("@")
    scheme, slashes, login = head.partition("://")
    user = login.partition(":")[0]
    return f"{scheme}{slashes}{user}:***{at}{tail}" if ":" in login else url


def _bad(url: str, remedy: str) -> Invalid:
    shown = redacted(url)
    return Invalid(f"{shown!r} is no database URL: {remedy}", code="bad_database_url", url=shown)

"""A connection to Redis, by the driver `redis`: the one place that knows it and its exceptions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from redis import exceptions
from redis.asyncio import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import UsernamePasswordCredentialProvider

from dougong.config import Secret
from dougong.errors import Invalid

__all__ = ["Broken", "RedisLink", "Refused", "where"]

_VERSION_MIN = 7


class Broken(Exception):
    """The connection is no more; what was asked may have been done."""


class Refused(Exception):
    """Redis says no, and has done nothing."""


def where(url: Secret) -> str:
    """The server, for messages. Raises `Invalid` (`bad_redis_url`), which quotes nothing."""
    try:
        parts = urlsplit(url.reveal())
        port = parts.port or 6379
    except ValueError:
        parts, port = urlsplit(""), 0
    bare = parts.path.strip("/") or "0"
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.query or not bare.isdecimal():
        raise Invalid(
            "the fan-out's URL must be redis://user:password@host:6379/0, or rediss:// for TLS, without options",
            code="bad_redis_url",
        )
    return f"{parts.scheme}://{parts.hostname}:{port}/{bare}"


class RedisLink:
    """One connection. Everything raises `Broken` when it breaks or takes longer than `timeout_s`."""

    def __init__(self, url: Secret, *, tls_ca: Path | None, timeout_s: float) -> None:
        parts = urlsplit(url.reveal())
        login: UsernamePasswordCredentialProvider | None = None
        if parts.username or parts.password:  # as an object: some versions show a password that is an argument
            login = UsernamePasswordCredentialProvider(
                unquote(parts.username or "") or None, unquote(parts.password or "")
            )
        tls: dict[str, Any] = {}
        if parts.scheme == "rediss":
            tls = {"ssl_cert_reqs": "required", "ssl_check_hostname": True, "ssl_ca_certs": tls_ca and str(tls_ca)}
        self._timeout_s = timeout_s
        self._connection = (SSLConnection if tls else Connection)(
            host=parts.hostname or "",
            port=parts.port or 6379,
            db=int(parts.path.strip("/") or 0),
            credential_provider=login,
            socket_timeout=None,  # deadlines are ours; who subscribes waits as long as it takes
            socket_connect_timeout=timeout_s,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            **tls,
        )

    async def open(self) -> tuple[str, bool]:
        """Connect; the life of the server's process, and whether it throws keys away when it is full."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._connection.connect()  # type: ignore[no-untyped-call]
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            raise Broken(str(error) or "no answer in time") from error
        told = (await self.ask("INFO", "server")) + (await self.ask("INFO", "memory"))  # type: ignore[operator]
        info = dict(line.split(":", 1) for line in cast(bytes, told).decode().split("\r\n") if ":" in line)
        version = info.get("redis_version", "0")
        if int(version.split(".")[0]) < _VERSION_MIN:
            raise Refused(f"it is version {version}, and the fan-out needs {_VERSION_MIN} or later")
        return info["run_id"][:12], info.get("maxmemory", "0") != "0" and info.get("maxmemory_policy") != "noeviction"

    async def ask(self, *command: str | bytes | int) -> object:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._connection.send_command(*command)
                return await self._connection.read_response(disable_decoding=True)
        except exceptions.ResponseError as error:
            raise Refused(str(error)) from error
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            raise Broken(str(error) or "no answer in time") from error

    async def tell(self, *command: str) -> None:
        """Without reading what it answers: that comes in `hear`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._connection.send_command(*command)
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            raise Broken(str(error) or "no answer in time") from error

    async def hear(self) -> Sequence[bytes | int]:
        """What comes next on a connection that subscribes; waits as long as it takes."""
        try:
            return cast(
                Sequence[bytes | int], await self._connection.read_response(disable_decoding=True, timeout=None)
            )
        except (exceptions.RedisError, OSError) as error:
            raise Broken(str(error)) from error

    async def close(self) -> None:
        await self._connection.disconnect(nowait=True)

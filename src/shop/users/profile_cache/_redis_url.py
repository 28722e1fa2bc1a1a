"""What `redis://user:password@host:6379/0` means; nothing of it is shown in errors."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from dougong.config import Secret
from dougong.errors import Invalid

__all__ = ["RedisOptions", "parse_redis_url"]

_SETTING = "profile_cache_url ([apps.users.settings], or DOUGONG_APP_USERS_PROFILE_CACHE_URL in the environment)"
_EXAMPLE = "redis://user:password@host:6379/0, or rediss://... for TLS; special characters in the password are quoted"
_QUOTED = "(@ is %40, / is %2F, # is %23, ? is %3F)"


class RedisOptions(msgspec.Struct, frozen=True):
    """How a Redis is reached."""

    host: str
    port: int
    user: str
    """Empty: the one that is called `default`."""
    password: Secret
    database: int
    tls: bool
    """Its certificate and name are checked."""
    tls_ca: str = ""
    """Certificate authority that it has to be of; empty: the machine's."""

    @property
    def where(self) -> str:
        """The server for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}/{self.database}"


def parse_redis_url(url: Secret) -> RedisOptions:
    """Anything not understood is refused (`Invalid`, code `bad_cache_url`): redis-py would take a misspelt option for
    its own, and an option that switches off the check of certificates too."""
    try:
        parts = urlsplit(url.reveal())
        port = parts.port
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:  # whose text may quote a piece of the password
        raise _bad(f"write {_EXAMPLE} {_QUOTED}") from None
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.fragment:
        raise _bad(f"write {_EXAMPLE} {_QUOTED}")
    if not re.fullmatch(r"(/\d{0,5})?", parts.path, re.ASCII):
        raise _bad("what stands after the host is the number of a database, as in redis://host:6379/0")
    tls, tls_ca = parts.scheme == "rediss", options.pop("tls_ca", "")
    if options or (tls_ca and not tls):
        raise _bad("the one option is tls_ca=/path/ca.pem, and it goes with rediss://")
    if tls_ca and not Path(tls_ca).is_file():
        raise _bad("tls_ca names no file; give the path of the certificate authority in PEM")
    return RedisOptions(
        host=parts.hostname,
        port=6379 if port is None else port,
        user=unquote(parts.username or ""),
        password=Secret(unquote(parts.password or "")),
        database=int(parts.path[1:] or 0),
        tls=tls,
        tls_ca=tls_ca,
    )


def _bad(remedy: str) -> Invalid:
    return Invalid(f"setting {_SETTING} is no URL of a Redis: {remedy}", code="bad_cache_url")

"""Names and limits: where an instance is written down, and what a registry refuses to store.

A service's instances stand under `/services/SERVICE/` with the slash, so that watching `shop.v1.Order` never sees
`shop.v1.Orders`.
"""

from __future__ import annotations

import math

import msgspec

from dougong.errors import Invalid
from dougong.registry._protocol import Instance

KEY_BYTES_MAX = 1024
VALUE_BYTES_MAX = 64 * 1024
TTL_S_MAX = 7 * 86_400.0

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Instance).decode


def service_prefix(service: str) -> str:
    """What to list and watch for one service.

    >>> service_prefix("shop.v1.Orders")
    '/services/shop.v1.Orders/'
    """
    if not service or "/" in service:
        raise Invalid(f"service name {service!r} must not be empty or contain '/'", code="invalid_service_name")
    return f"/services/{service}/"


def instance_key(instance: Instance) -> str:
    """Where `instance` is registered."""
    if not instance.address or "/" in instance.address:
        raise Invalid(
            f"address {instance.address!r} of {instance.service} must be host:port", code="invalid_instance_address"
        )
    return service_prefix(instance.service) + instance.address


def encode_instance(instance: Instance) -> bytes:
    return _encode(instance)


def read_instance(key: str, value: bytes) -> Instance:
    """The instance written under `key`; raises `Invalid` (`invalid_instance`): whoever reads many skips that one."""
    try:
        instance = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _invalid(key, str(error)) from None
    if not instance.address or "/" in instance.address or f"/services/{instance.service}/{instance.address}" != key:
        raise _invalid(key, f"it says {instance.service!r} at {instance.address!r}, which belongs under another key")
    if instance.weight < 0:
        raise _invalid(key, f"weight {instance.weight} is below 0")
    if instance.epoch < 0:
        raise _invalid(key, f"epoch {instance.epoch} is below 0")
    return instance


def legible(key: str) -> str:
    """A stranger's key, for people: in quotes and escaped if it would move their cursor."""
    return key if key.isprintable() else repr(key)


def _invalid(key: str, what: str) -> Invalid:
    return Invalid(f"{legible(key)} is no instance: {what}", code="invalid_instance", key=key)


def prefix_end(prefix: str) -> str | None:
    """The smallest key that is greater than every key with this prefix; None when there is none.

    >>> prefix_end("/services/a/")
    '/services/a0'
    """
    for cut in range(len(prefix), 0, -1):
        last = ord(prefix[cut - 1])
        if last < 0x10FFFF:
            following = 0xE000 if last == 0xD7FF else last + 1  # surrogates are no characters and cannot be stored
            return prefix[: cut - 1] + chr(following)
    return None


def check_key(key: str) -> None:
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise Invalid(f"key {key!r} is not valid text", code="invalid_key") from None
    if not 0 < size <= KEY_BYTES_MAX or "\0" in key:
        raise Invalid(
            f"key {key[:64]!r} has {size} bytes; 1 to {KEY_BYTES_MAX}, without NUL, are allowed", code="invalid_key"
        )


def check_value(key: str, value: bytes) -> None:
    if len(value) > VALUE_BYTES_MAX:
        raise Invalid(
            f"value of {key!r} has {len(value)} bytes, {VALUE_BYTES_MAX} are allowed: a registry holds addresses, "
            "not data",
            code="value_too_large",
        )


def check_ttl(ttl_s: float) -> None:
    if not (math.isfinite(ttl_s) and 0 < ttl_s <= TTL_S_MAX):
        raise Invalid(f"lease TTL {ttl_s} s must be above 0 and at most {TTL_S_MAX:.0f} s", code="invalid_ttl")


def check_from_revision(revision: int) -> None:
    if revision < 1:
        raise Invalid(
            f"cannot watch from revision {revision}: revisions start at 1; use a listing's revision + 1",
            code="invalid_revision",
        )

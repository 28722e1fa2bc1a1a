"""Changes of the registry's services, one line each."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

import msgspec

from dougong.app import printable
from dougong.cli.instances import PREFIX
from dougong.errors import Invalid
from dougong.registry import Change, ChangeKind, Instance, Listing, read_instance

__all__ = ["difference", "tell_change", "tell_note"]


def difference(known: Mapping[str, bytes], listing: Listing) -> list[Change]:
    """What a fresh listing says that was not known."""
    present = {item.key: item for item in listing.items}
    gone = [Change(ChangeKind.DELETE, key, listing.revision) for key in known if key not in present]
    new = [i for i in listing.items if known.get(i.key) != i.value]
    return gone + [Change(ChangeKind.PUT, i.key, i.mod_revision, i.value) for i in new]


def tell_change(change: Change, known: dict[str, bytes], json: bool) -> None:
    before = known.get(change.key)
    if change.kind is ChangeKind.DELETE:
        known.pop(change.key, None)
    else:
        known[change.key] = change.value
    service, _, address = change.key.removeprefix(PREFIX).partition("/")
    instance: Instance | None = None
    what, reason = "gone", ""
    if change.kind is ChangeKind.PUT:
        try:
            instance = read_instance(change.key, change.value)
            what = instance.state.value
        except Invalid as error:
            what, reason = "invalid", error.message
    if json:
        document = {"revision": change.revision, "service": service, "address": address, "change": what}
        extra = {"instance": instance} if instance else {"reason": reason} if reason else {}
        print(msgspec.json.encode({**document, **extra}).decode(), flush=True)
        return
    ident = instance.id if instance else _id_of(change.key, before)
    clock = dt.datetime.now(dt.UTC).strftime("%H:%M:%S")
    line = f"{clock}  {change.revision:>8}  {what:<11}  {service}  {address}  {ident}{reason}"
    print(printable(line), flush=True)


def _id_of(key: str, value: bytes | None) -> str:
    try:
        return read_instance(key, value).id if value is not None else ""
    except Invalid:
        return ""


def tell_note(text: str, json: bool) -> None:
    print(msgspec.json.encode({"note": text}).decode() if json else f"# {printable(text)}", flush=True)

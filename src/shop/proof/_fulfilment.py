"""The claim about fulfilment: an order that gets stuck gets going again by itself.

Both sides sell the same way, to the same customers, at the same kind of provider, and meet the same misfortunes. Then
they have the same time to cope. Whoever looks at them afterwards counts the orders that need a person: those that have
not come to an end, and those whose money is not where it should be.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol

import aiohttp
import msgspec

import shop
from dougong.app import Supervisor, load_system
from dougong.evidence import Claim, Figures, NotShown, Ratio, Setting, Threshold
from shop.fulfilment import Stalls
from shop.proof._books import audit
from shop.proof._by_hand import status_column
from shop.proof._ledgers import Intent
from shop.provider import Behaviour, Provider, serving
from shop.users import DEMO_PASSWORD

__all__ = ["fulfilment"]

_SECRET, _KEY = "proof-secret", "proof-key"  # of a provider that exists for the run only
_STALLS = Stalls(picker_dies_every=6, courier_silent_every=7, parcel_lost_every=11)
_STAGE_S = 0.6
_PAY_WITHIN_S = 2.5
_DEADLINES = {
    "PAY_WITHIN_S": str(_PAY_WITHIN_S),
    "CONFIRMED_S": "2",
    "PICKING_S": "2",
    "SHIPPED_S": "2",
    "TRACING_S": "1.5",
    "RETRY_S": "0.5",
    "ASK_S": "1",
}
_LATE_S = 0.7
_PROVIDER_DOWN_S = 2.0
_COPE_S = 20.0
_LAST_DEADLINE_S = 4.0
"""After so long nothing moves at the baseline any more."""
_LOOK_S = 0.25
_ENDED = frozenset({"delivered", "cancelled", "refunded", "refused"})
_GIVEN_UP = frozenset({"cancelled", "refunded", "refused"})


class _Side(Protocol):
    """A shop, as a customer sees it."""

    async def place(self, *, external: bool) -> tuple[int, str]:
        """(order, where to pay it)"""

    async def cancel(self, order_id: int, /) -> bool:
        """Whether that was still possible."""

    async def states(self) -> Mapping[int, str]:
        """Order → state."""


class _Run(msgspec.Struct):
    """What happened to the customers of one side."""

    side: _Side
    provider: Provider
    http: aiohttp.ClientSession
    prefix: str
    """Of what the side calls its orders at the provider."""
    placed: dict[int, bool] = {}
    """Order → whether it is paid elsewhere."""
    hit: set[int] = set()
    """Orders that met a misfortune."""

    async def sell(self, count: int) -> None:
        """All customers, one misfortune after the other; the provider's is over at the end."""
        unheard, in_vain, too_late, cancelled = (count // 10 for _ in range(4))
        for _ in range(count):  # at home: only the warehouse can go wrong
            await self._place(external=False)
        for _ in range(count // 2):
            await self._pay(await self._place(external=True))
        await self._with(Behaviour(never=True), unheard)
        for _ in range(in_vain):
            await self._place(external=True)  # who never pays is no misfortune: everybody has a time limit for that
        late = [await self._place(external=True) for _ in range(too_late)]
        sorry = [await self._place(external=True) for _ in range(cancelled)]
        for order in sorry:
            await self._pay(order)
        await self._cancel_while_refunds_fail(sorry)
        await asyncio.sleep(max(0.0, _PAY_WITHIN_S + _LATE_S - _PROVIDER_DOWN_S))
        for order in late:
            if await self._pay(order):
                self.hit.add(order[0])
        self.provider.behaviour = Behaviour()

    async def need_a_hand(self, patience_s: float) -> int:
        """How many orders do, after so long at most."""
        give_up = time.monotonic() + patience_s
        while True:
            left = await self._stuck()
            if not left or time.monotonic() >= give_up:
                return left
            await asyncio.sleep(_LOOK_S)

    async def _stuck(self) -> int:
        states = await self.side.states()
        has: dict[int, int] = {}
        total: dict[int, int] = {}
        for reference, intents in self.provider.intents.by_reference().items():
            order_id = int(reference.removeprefix(self.prefix))
            if order_id not in self.placed:
                continue  # of an earlier pair
            has[order_id] = sum(i.amount_minor - i.refunded_minor for i in intents if i.status == "paid")
            total[order_id] = intents[0].amount_minor
        stuck = 0
        for order_id, external in self.placed.items():
            state = states.get(order_id, "missing")
            should = 0 if state in _GIVEN_UP else total.get(order_id, 0)
            stuck += state not in _ENDED or (external and has.get(order_id, 0) != should)
        return stuck

    async def _place(self, *, external: bool) -> tuple[int, str]:
        order_id, pay_url = await self.side.place(external=external)
        self.placed[order_id] = external
        if _STALLS.picker_dies(order_id, 0) or _STALLS.courier_silent(order_id) or _STALLS.parcel_lost(order_id):
            self.hit.add(order_id)
        return order_id, pay_url

    async def _pay(self, order: tuple[int, str]) -> bool:
        async with self.http.post(order[1], data={"outcome": "pay"}) as answer:
            return answer.status == 200

    async def _with(self, behaviour: Behaviour, count: int) -> None:
        orders = [await self._place(external=True) for _ in range(count)]
        self.provider.behaviour = behaviour
        for order in orders:
            await self._pay(order)
            self.hit.add(order[0])
        self.provider.behaviour = Behaviour()

    async def _cancel_while_refunds_fail(self, orders: Sequence[tuple[int, str]]) -> None:
        self.provider.behaviour = Behaviour(refuse=("refund", "void"))
        waiting = {order_id for order_id, _ in orders}
        give_up = time.monotonic() + _PROVIDER_DOWN_S
        while waiting and time.monotonic() < give_up:  # a payment is heard of some milliseconds after it was made
            for order_id in sorted(waiting):
                if await self.side.cancel(order_id):
                    self.hit.add(order_id)
                    waiting.discard(order_id)
            await asyncio.sleep(0.05)
        await asyncio.sleep(max(0.0, give_up - time.monotonic()))


class _Front:
    """The shop over HTTP."""

    def __init__(self, url: str, http: aiohttp.ClientSession, token: str) -> None:
        self._url = url
        self._http = http
        self._headers = {"Authorization": f"Bearer {token}"}

    async def place(self, *, external: bool) -> tuple[int, str]:
        body = {"lines": [{"sku": "sku-0001", "quantity": 1}], "payment": "external" if external else "wallet"}
        status, placed = await self._call("POST", "/v1/orders", body)
        if status != 200:
            raise NotShown(f"the shop refused an order: {placed}")
        return int(str(placed["order_id"])), str(placed.get("pay_url", ""))

    async def cancel(self, order_id: int, /) -> bool:
        _, before = await self._call("GET", f"/v1/orders/{order_id}")
        if before.get("state") not in ("confirmed", "picking"):
            return False
        status, _ = await self._call("POST", f"/v1/orders/{order_id}/cancel", {})
        return status == 200

    async def states(self) -> Mapping[int, str]:
        found: dict[int, str] = {}
        before = ""
        while True:
            _, page = await self._call("GET", f"/v1/orders?limit=200&before={before}")
            items = msgspec.convert(page["items"], list[dict[str, object]])
            found.update({int(str(item["order_id"])): str(item["state"]) for item in items})
            before = str(page.get("next", ""))
            if not before:
                return found

    async def _call(self, verb: str, path: str, body: object = None) -> tuple[int, Mapping[str, object]]:
        async with self._http.request(verb, self._url + path, json=body, headers=self._headers) as answer:
            return answer.status, await answer.json(content_type=None)


class _FulfilmentExperiment:
    """The shop, running; the baseline is started anew for each pair."""

    def __init__(self, setting: Setting, data: Path, url: str, http: aiohttp.ClientSession, provider: Provider) -> None:
        self._setting = setting
        self._data = data
        self._url = url
        self._http = http
        self._provider = provider
        self._count = 30 if setting.quick else 100
        self._customers = 0

    async def baseline(self, pair: int) -> Figures:
        path = self._data / f"by-hand-{pair}.db"
        async with (
            serving(Provider(_KEY, _SECRET)) as provider,
            status_column(
                path, provider, _SECRET, stalls=_STALLS, stage_s=_STAGE_S, pay_within_s=_PAY_WITHIN_S
            ) as column,
        ):
            run = _Run(column, provider, self._http, "by-hand-")
            await run.sell(self._count)
            return await self._figures(run, _LAST_DEADLINE_S if self._setting.quick else _COPE_S)

    async def ours(self, pair: int) -> Figures:
        self._customers += 1
        token = await _log_in(self._url, self._http, self._customers)
        run = _Run(_Front(self._url, self._http, token), self._provider, self._http, "")
        await run.sell(self._count)
        return await self._figures(run, _COPE_S)

    async def verify(self) -> Sequence[str]:
        intents = {
            reference: [msgspec.convert(intent, Intent, from_attributes=True) for intent in made]
            for reference, made in self._provider.intents.by_reference().items()
        }
        found = await audit(self._data, intents=intents)
        return [f"books: {discrepancy.kind}: {discrepancy.what}" for discrepancy in found]

    async def _figures(self, run: _Run, patience_s: float) -> Figures:
        start = time.monotonic()
        left = await run.need_a_hand(patience_s)
        return {
            "orders": float(len(run.placed)),
            "stalled": float(len(run.hit)),
            "unresolved": float(left),
            "interventions_per_1000": round(1000 * left / len(run.placed), 1),
            "coped_s": round(time.monotonic() - start, 1),
        }


@asynccontextmanager
async def _experiment(setting: Setting) -> AsyncGenerator[_FulfilmentExperiment]:
    """Start the shop with deadlines of seconds instead of hours and days; remove everything afterwards."""
    data = setting.workdir / "data"
    data.mkdir()
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, data, ignore_errors=True)
        provider = await stack.enter_async_context(serving(Provider(_KEY, _SECRET)))
        setting.say("starting the shop")
        url = await stack.enter_async_context(_shop(setting, data, provider))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield _FulfilmentExperiment(setting, data, url, http, provider)


@asynccontextmanager
async def _shop(setting: Setting, data: Path, provider: Provider) -> AsyncGenerator[str]:
    path = Path(shop.__file__).with_name("system.toml")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    system = load_system(path)
    edge = msgspec.structs.replace(system.apps["edge"], http=address)
    apps = {**system.apps, "edge": edge}
    del apps["live"]  # nobody looks
    system = msgspec.structs.replace(system, apps=apps)
    of_orders = {
        **_DEADLINES,
        "PROVIDER_URL": provider.url,
        "PROVIDER_KEY": _KEY,
        "WEBHOOK_SECRET": _SECRET,
        "PUBLIC_URL": f"http://{address}",
    }
    of_fulfilment = {
        "STAGE_MS": str(round(_STAGE_S * 1000)),
        **{f"STALLS__{name.upper()}": str(every) for name, every in msgspec.structs.asdict(_STALLS).items()},
    }
    environment = {
        **{f"DOUGONG_APP_ORDERS_{name}": value for name, value in of_orders.items()},
        **{f"DOUGONG_APP_FULFILMENT_{name}": value for name, value in of_fulfilment.items()},
    }
    with (setting.workdir / "shop.log").open("w") as log:
        supervisor = Supervisor(
            system,
            path,
            data,
            on_line=lambda name, line: print(name, line, file=log),
            environment=environment,
        )
        await supervisor.start(ready_s=60.0)
        try:
            yield f"http://{address}"
        finally:
            await supervisor.stop()


async def _log_in(url: str, http: aiohttp.ClientSession, number: int) -> str:
    credentials = {"email": f"user-{number}@shop.example", "password": DEMO_PASSWORD}
    async with http.post(f"{url}/v1/login", json=credentials) as answer:
        return str((await answer.json())["token"])


fulfilment = Claim(
    name="fulfilment",
    title="Orders that get stuck get going again by themselves",
    situation=(
        "Orders with a status column and a person: what no event moves on (a picker who left, a courier who says "
        "nothing, a webhook that never came, a refund that failed) stays where it is until somebody looks into it."
    ),
    task="Bring manual interventions down by 76 % or more, with no order and no money left behind.",
    action=(
        "Orders and payments are durable state machines: each state that somebody else has to end has a deadline, and "
        "each deadline an event that leads on. A picker's order is confirmed again, a parcel is traced and then paid "
        "back, the provider is asked what it did not tell, and what it owes is asked for until it is paid. Both sides "
        "meet the same misfortunes at the same kind of provider; deadlines of hours are seconds here."
    ),
    result=(
        "Of {ours[orders]:,.0f} orders {ours[stalled]:,.0f} were stalled on purpose; {ours[unresolved]:,.0f} needed a "
        "hand, against {baseline[unresolved]:,.0f} with a status column ({baseline[interventions_per_1000]:,.0f} of "
        "1,000); the last one had come to its end {ours[coped_s]:.0f} s after the last misfortune."
    ),
    experiment=_experiment,
    ratios={"interventions": Ratio("interventions_per_1000", "interventions_per_1000")},
    pairs_quick=1,
    thresholds=(
        Threshold("ours.unresolved", at_most=0),
        Threshold("ratio.interventions", at_most=0.24),
        Threshold("ours.stalled", at_least=15),
        Threshold("baseline.stalled", at_least=15),
    ),
)

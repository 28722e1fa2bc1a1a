"""kill -9 under external payments, with a provider on its worst day: afterwards every order ended, and the books of all
databases and of the provider agree."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from tests.system.conftest import SYSTEM_FILE, Shop, free_port, kill, system_on

from dougong.app import Supervisor
from shop.proof import Intent, audit
from shop.provider import Behaviour, Provider, serving

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("shop")]

KILLS_EACH = 3
SECONDS = 18.0
CUSTOMERS = 12
BOUGHT_MIN = 3
"""Of each, however slow the machine is."""
ENDED = {"delivered", "cancelled", "refunded", "refused"}
WORST = [
    Behaviour(),
    Behaviour(copies=3, reorder=True),
    Behaviour(wrong_signatures=2, late_s=0.3),
    Behaviour(never=True),
    Behaviour(refuse=("create",)),
    Behaviour(refuse=("refund", "void")),
    Behaviour(refuse=("ask",), copies=2),
]


@pytest_asyncio.fixture
async def shop(tmp_path: Path) -> AsyncIterator[tuple[Shop, Provider, Path]]:
    port, lines = free_port(), list[str]()
    async with serving(Provider("key", "hush")) as provider:
        settings = {
            "PROVIDER_URL": provider.url,
            "PROVIDER_KEY": "key",
            "WEBHOOK_SECRET": "hush",
            "PUBLIC_URL": f"http://127.0.0.1:{port}",
            "PAY_WITHIN_S": "3",
            "ASK_S": "2",
            "RETRY_S": "0.5",
            "CONFIRMED_S": "5",
            "PICKING_S": "5",
            "SHIPPED_S": "20",
        }
        supervisor = Supervisor(
            system_on(port),
            SYSTEM_FILE,
            tmp_path,
            on_line=lambda name, line: lines.append(f"{name}: {line}"),
            environment={f"DOUGONG_APP_ORDERS_{name}": value for name, value in settings.items()},
        )
        await supervisor.start(ready_s=60.0)
        try:
            async with aiohttp.ClientSession() as http:
                yield Shop(supervisor, f"http://127.0.0.1:{port}", http, lines), provider, tmp_path
        finally:
            await supervisor.stop()


async def ask(
    shop: Shop, verb: str, path: str, body: object, token: str, key: str = ""
) -> tuple[int, Mapping[str, object]]:
    """One request; 0 when whoever should answer was killed."""
    try:
        async with asyncio.timeout(60):
            headers = {"Idempotency-Key": key} if key else {}
            return await shop.call(verb, path, body, token=token, headers=headers)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return 0, {}


async def customer(
    shop: Shop, provider: Provider, name: str, token: str, rng: random.Random, until: float
) -> list[str]:
    """Buys, pays or does not, cancels now and then; the orders that were acknowledged."""
    loop, bought = asyncio.get_running_loop(), list[str]()
    while loop.time() < until or len(bought) < BOUGHT_MIN:
        key = f"{name}-{len(bought)}-{rng.random()}"
        body = {"lines": [{"sku": f"sku-{rng.randrange(1, 9):04d}", "quantity": 1}], "payment": "external"}
        placed: Mapping[str, object] = {}
        async with asyncio.timeout(120):
            while True:
                status, placed = await ask(shop, "POST", "/v1/orders", body, token, key)
                if status == 200:
                    break
                assert status in (0, 500, 502, 503, 504), placed
                await asyncio.sleep(0.1)
        order_id = str(placed["order_id"])
        bought.append(order_id)
        for intent in provider.intents.by_reference().get(order_id, ()):
            what = rng.random()
            if what < 0.75:
                await asyncio.sleep(rng.choice([0.0, 0.05, 3.0]) if what < 0.6 else 0.0)
                outcome = "pay" if what < 0.65 else "decline"
                async with shop.http.post(f"{provider.url}/pay/{intent.id}", data={"outcome": outcome}) as answer:
                    assert answer.status in (200, 409)
        if rng.random() < 0.3:
            await ask(shop, "POST", f"/v1/orders/{order_id}/cancel", {}, token)
        await asyncio.sleep(rng.random() * 0.2)
    return bought


async def disturb(shop: Shop, provider: Provider, rng: random.Random, seconds: float) -> list[str]:
    """Kill each process several times in random order, while the provider's mood changes; who was killed."""
    victims = [process.name for process in shop.supervisor.processes] * KILLS_EACH
    rng.shuffle(victims)
    for number, name in enumerate(victims):
        provider.behaviour = rng.choice(WORST)
        await asyncio.sleep(rng.uniform(0.2, 1.8) * seconds / len(victims) / 1.1)
        await kill(shop.supervisor, name, victims[:number])
    provider.behaviour = Behaviour()
    return victims


async def test_books_agree_after_kills_while_customers_pay_elsewhere(shop: tuple[Shop, Provider, Path]) -> None:
    running, provider, data = shop
    seed = random.SystemRandom().randrange(1 << 32)
    rng = random.Random(seed)
    tokens = [await running.token(f"user-{n}@shop.example") for n in range(1, CUSTOMERS + 1)]
    until = asyncio.get_running_loop().time() + SECONDS
    async with asyncio.TaskGroup() as group:
        buying = [
            group.create_task(customer(running, provider, f"c{n}-{seed}", token, random.Random(seed + n), until))
            for n, token in enumerate(tokens)
        ]
        disturbing = group.create_task(disturb(running, provider, rng, SECONDS))
    where = f"seed {seed}, killed {disturbing.result()}"
    bought = [(token, order_id) for token, task in zip(tokens, buying, strict=True) for order_id in task.result()]
    states: Counter[object] = Counter()
    async with asyncio.timeout(120):
        for token, order_id in bought:
            while True:
                status, order = await ask(running, "GET", f"/v1/orders/{order_id}", None, token)
                if status == 200 and order["state"] in ENDED:
                    states[order["state"]] += 1
                    break
                assert status != 404, (where, order_id)
                await asyncio.sleep(0.1)
    assert {"delivered", "cancelled"} <= set(states), (where, states)
    intents = {
        reference: [msgspec.convert(intent, Intent, from_attributes=True) for intent in made]
        for reference, made in provider.intents.by_reference().items()
    }
    found = await audit(data, intents=intents)
    assert found == [], f"{where}: {found}\n" + "\n".join(running.lines[-80:])

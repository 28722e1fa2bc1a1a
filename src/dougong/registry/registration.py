"""Registration: keeps a process's instances in the registry for as long as it lives."""

from __future__ import annotations

import asyncio
import random as random_module
from collections.abc import Sequence

import msgspec

from dougong.errors import Error, Invalid, NotFound, Unavailable
from dougong.registry._protocol import Instance, InstanceState, KeyValue, Registry
from dougong.registry.keys import check_ttl, encode_instance, instance_key, read_instance
from dougong.telemetry import get_logger

TTL_S = 30.0
RENEWALS_PER_TTL = 3
BACKOFF_S_MIN = 0.05
BACKOFF_S_MAX = 5.0
CALL_S_MAX = 5.0


class Registration:
    """All instances of a process under one lease, renewed at a third of its TTL.

    Whatever happens to the lease (expired while the process was stopped, revoked by somebody, lost with the registry) a
    new one is granted and everything is put again, for ever, with jittered back-off. While the registry is silent the
    old lease counts until its time is up by our own clock.

    With each renewal the entries are looked at: what somebody deleted, or what a predecessor at the same address wrote
    over when its last words arrived late, is put again. An entry of a higher epoch is left alone: it is our successor.
    """

    def __init__(
        self,
        registry: Registry,
        instances: Sequence[Instance],
        ttl_s: float = TTL_S,
        *,
        random: random_module.Random | None = None,
    ) -> None:
        check_ttl(ttl_s)
        self._registry = registry
        self._instances = {instance_key(instance): instance for instance in instances}
        self._ttl_s = ttl_s
        self._random = random if random is not None else random_module.Random()
        self._lease = 0
        self._news = asyncio.Event()  # the state was changed and is not written down yet
        self._attempted = asyncio.Event()
        self._registered = asyncio.Event()
        self._grants = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def registered(self) -> bool:
        """Whether, as far as we know, the registry holds all instances."""
        return self._registered.is_set()

    @property
    def lease(self) -> int:
        """The lease in force; 0 while there is none."""
        return self._lease

    @property
    def grants(self) -> int:
        """How many leases it took so far: more than 1 means that one was lost."""
        return self._grants

    @property
    def instances(self) -> tuple[Instance, ...]:
        return tuple(self._instances.values())

    async def start(self) -> None:
        """Register, and keep registered. Returns after the first attempt; if it failed, more follow (see `wait`)."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="registration")
        await self._attempted.wait()

    async def wait(self, timeout_s: float) -> None:
        """Wait until everything is registered; `Unavailable` (`not_registered`) when that takes too long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._registered.wait()
        except TimeoutError:
            raise Unavailable(
                f"{', '.join(self._instances)} could not be registered within {timeout_s} s; still trying",
                code="not_registered",
            ) from None

    async def set_state(self, state: InstanceState) -> None:
        """Say `state` for all instances; returns once the registry knows, or could not be told and will be."""
        self._instances = {k: msgspec.structs.replace(i, state=state) for k, i in self._instances.items()}
        if self._task is None:
            return
        self._attempted.clear()
        self._news.set()
        await self._attempted.wait()

    async def stop(self) -> None:
        """Say goodbye: the entries turn `terminating`, then go. An unreachable registry delays this by 5 s at most."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self._instances = {
            k: msgspec.structs.replace(i, state=InstanceState.TERMINATING) for k, i in self._instances.items()
        }
        lease, self._lease = self._lease, 0
        self._registered.clear()
        try:
            async with asyncio.timeout(CALL_S_MAX):
                if lease:
                    await self._put_all(lease)
                    await self._registry.revoke(lease)
        except (Error, TimeoutError) as error:
            get_logger(__name__).warning("deregistration_failed", error=str(error), lease_ends_in_s=self._ttl_s)

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._keep_registered()
                except Exception:  # noqa: BLE001
                    # A fault of ours, or of a registry's: whoever serves is to be found all the same.
                    get_logger(__name__).exception("registration_fault", keys=list(self._instances))
                self._registered.clear()
                self._lease = 0
                self._attempted.set()
                await asyncio.sleep(BACKOFF_S_MAX * self._random.uniform(0.5, 1.0))
        finally:
            self._attempted.set()  # nobody waits for a task that is gone

    async def _keep_registered(self) -> None:
        backoff_s = BACKOFF_S_MIN
        while True:
            try:
                async with asyncio.timeout(CALL_S_MAX):
                    lease = await self._registry.grant(self._ttl_s)
                    self._grants += 1
                    self._lease = lease.id
                    await self._publish(lease.id)
            except (Error, TimeoutError) as error:
                get_logger(__name__).warning("registration_failed", error=str(error), keys=list(self._instances))
                self._attempted.set()
                await asyncio.sleep(backoff_s * self._random.uniform(0.5, 1.0))
                backoff_s = min(BACKOFF_S_MAX, backoff_s * 2)
                continue
            backoff_s = BACKOFF_S_MIN
            await self._renew(lease.id, lease.ttl_s)
            self._registered.clear()
            self._lease = 0
            get_logger(__name__).warning("lease_lost", lease=lease.id, keys=list(self._instances))

    async def _renew(self, lease: int, ttl_s: float) -> None:
        """Keep a lease alive and its entries current; returns when it is lost."""
        loop = asyncio.get_running_loop()
        good_until = loop.time() + ttl_s
        backoff_s = BACKOFF_S_MIN
        await self._wait_for_news(ttl_s / RENEWALS_PER_TTL)
        while True:
            try:
                asked_at = loop.time()
                # A call that waits for an answer must not keep alive, here, what has ended there.
                async with asyncio.timeout_at(min(asked_at + CALL_S_MAX, good_until)):
                    left_s = await self._registry.keep_alive(lease)
                    if left_s <= 0:
                        return
                    good_until = asked_at + left_s
                    if not self._news.is_set():
                        await self._look(lease)
                    if self._news.is_set():
                        await self._publish(lease)
            except NotFound:
                return
            except (Error, TimeoutError):
                self._attempted.set()
                if loop.time() >= good_until:
                    return
                # Not cut short by news: they are not told any sooner while nobody listens.
                pause_s = min(ttl_s / RENEWALS_PER_TTL, backoff_s) * self._random.uniform(0.5, 1.0)
                await asyncio.sleep(min(pause_s, good_until - loop.time()))
                backoff_s = min(BACKOFF_S_MAX, backoff_s * 2)
            else:
                backoff_s = BACKOFF_S_MIN
                await self._wait_for_news(left_s / RENEWALS_PER_TTL)

    async def _wait_for_news(self, pause_s: float) -> None:
        try:
            async with asyncio.timeout(pause_s):
                await self._news.wait()
        except TimeoutError:
            pass

    async def _publish(self, lease: int) -> None:
        self._news.set()
        while self._news.is_set():  # the state may change while we write the last one down
            self._news.clear()
            try:
                await self._put_all(lease)
            except BaseException:
                self._news.set()
                raise
        self._registered.set()
        self._attempted.set()

    async def _look(self, lease: int) -> None:
        """See whether all entries are there and hang on our lease; what is not is news."""
        for key, instance in self._instances.items():
            listing = await self._registry.list(key)
            entry = next((item for item in listing.items if item.key == key), None)
            if entry is None or (entry.lease != lease and not _is_successor(entry, instance)):
                get_logger(__name__).warning("entry_lost", key=key, lease=lease, overwritten=entry is not None)
                self._news.set()

    async def _put_all(self, lease: int) -> None:
        for key, instance in self._instances.items():
            await self._registry.put(key, encode_instance(instance), lease=lease)


def _is_successor(entry: KeyValue, instance: Instance) -> bool:
    try:
        other = read_instance(entry.key, entry.value)
    except Invalid:
        return False
    return other.id == instance.id and other.epoch > instance.epoch

"""Where pages connect."""

from __future__ import annotations

from dougong.app import GatewayAddress
from dougong.contract import Service, rpc
from dougong.gateway import Gateway
from shop.live._contract import FindGateway, FoundGateway
from shop.live._push import LiveSettings

__all__ = ["Live"]


class Live(Service, package="shop.v1"):
    """The way to what is told without being asked."""

    def __init__(self, gateway: Gateway, address: GatewayAddress, settings: LiveSettings) -> None:
        self._gateway = gateway
        self._address = address
        self._settings = settings

    @rpc(http="GET /v1/live", public=True, idempotent=True)
    async def find_gateway(self, request: FindGateway) -> FoundGateway:
        """Where to connect. A process that ended may be somewhere else afterwards, so ask before each connection."""
        return FoundGateway(
            url=self._settings.public_url,
            port=int(self._address.address.rpartition(":")[2] or 0),
            path=self._gateway.settings.path,
        )

"""Who connects, by token: where it may stand, how long it is good for, and that it ends when its session does."""

from __future__ import annotations

import pytest
from tests.gateway.wire import head, line

from dougong.clock import ManualClock
from dougong.gateway import Gateway, GatewaySettings, jwt_authenticate
from dougong.rpc import EndedSessions, JwtAuthenticator, JwtIssuer


class Desk:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.ended = EndedSessions(self.clock)
        self.issuer = JwtIssuer(JwtIssuer.new_private_key(), "k", issuer="s", audience="s", ttl_s=60, clock=self.clock)
        self.authenticator = JwtAuthenticator(
            self.issuer.public_keys, "s", "s", "system-secret", ended=self.ended, clock=self.clock
        )
        self.gateway = Gateway(
            jwt_authenticate(self.authenticator, clock=self.clock),
            ended=self.ended,
            settings=GatewaySettings(join_timeout_s=5.0),
        )

    def token(self, user: str = "u-1", session: str = "") -> str:
        return self.issuer.issue(user, session=session)


async def test_a_token_stands_in_the_header_the_subprotocols_or_the_query() -> None:
    desk = Desk()
    async with line(desk.gateway) as it:
        token = desk.token()
        await it.session("/live", Authorization=f"Bearer {token}")
        browser = await it.session("/live", Sec_WebSocket_Protocol=f"dougong, bearer.{token}")
        assert "Sec-WebSocket-Protocol: dougong\r\n" in browser.answer
        assert token not in browser.answer
        await it.session(f"/live?access_token={token}")
        assert [shown.user for shown in it.gateway.connections()] == ["u-1"] * 3
        assert it.gateway.present("user:u-1") == 3
        alone = await it.dial()
        assert await alone.shake(head("/live", Sec_WebSocket_Protocol=f"bearer.{token}")) == 400
        await it.session("/live", Authorization="Bearer system-secret")  # which never expires


@pytest.mark.parametrize("target", ["/live", "/live?access_token=nonsense", "/live?access_token=system-secre"])
async def test_no_token_and_wrong_ones_are_refused(target: str) -> None:
    async with line(Desk().gateway) as it:
        peer = await it.dial()
        assert await peer.shake(head(target)) == 401
        assert "WWW-Authenticate: Bearer" in peer.answer


async def test_a_session_ends_with_its_token() -> None:
    desk = Desk()
    async with line(desk.gateway) as it:
        token = desk.token()
        desk.clock.advance(40)
        peer = await it.session(f"/live?access_token={token}")
        desk.clock.advance(22)  # within what clocks may differ: a moment is left
        late = await it.session(f"/live?access_token={token}")
        it.gateway.tick(3)
        assert await late.closed() == 4001
        it.gateway.tick(19)
        assert next(shown.state for shown in it.gateway.connections()) == "open"
        it.gateway.tick(22)
        assert await peer.closed() == 4001
        desk.clock.advance(10)
        assert await (await it.dial()).shake(head(f"/live?access_token={token}")) == 401


async def test_who_logs_out_is_gone_everywhere_and_nobody_else() -> None:
    desk = Desk()
    async with line(desk.gateway) as it:
        peers = [await it.session(f"/live?access_token={desk.token(session=one)}") for one in ("a", "a", "b", "")]
        it.gateway.tick(1)
        desk.ended.end("a", desk.clock.now_us() + 60_000_000)
        it.gateway.tick(2)
        assert [await peers[0].closed(), await peers[1].closed()] == [4001, 4001]
        assert [shown.state for shown in it.gateway.connections()].count("open") == 2
        assert await (await it.dial()).shake(head(f"/live?access_token={desk.token(session='a')}")) == 401

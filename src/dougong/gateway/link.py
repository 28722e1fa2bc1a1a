"""One connection of a client to a gateway: opened, read, written, ended; whoever owns it decides what follows."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress

from dougong.errors import Overloaded, Unavailable
from dougong.gateway.frames import (
    CloseCode,
    FrameLimits,
    FrameReader,
    Opcode,
    ProtocolError,
    encode_frame,
    read_close,
)
from dougong.gateway.greeting import ANSWER_BYTES_MAX, Address, ask, check_answer, new_key, read_answer
from dougong.gateway.plain import PlainReader, encode_plain

__all__ = ["Link", "open_link"]

_READ_BYTES = 64 * 1024
_WAITING_BYTES_MAX = 1024 * 1024


class Link:
    """An open connection. `code` and `reason` say how it ended, once `messages` is over."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        plain: bool,
        message_bytes_max: int,
        silent_s: float,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._plain = plain
        self._frames = PlainReader() if plain else FrameReader()
        self._limits = FrameLimits(message_bytes_max=message_bytes_max, fragments_max=100_000, masked=False)
        self._silent_s = silent_s
        self._closing = False
        self.code: int | None = None
        self.reason = ""

    async def messages(self) -> AsyncIterator[bytes]:
        """Text messages until it ends; pings are answered. A gateway asks every 25 s: silence means that it is gone."""
        try:
            while True:
                async with asyncio.timeout(self._silent_s):
                    data = await self._reader.read(_READ_BYTES)
                if not data:
                    return
                for got in self._frames.feed(data, self._limits):
                    if got.opcode == Opcode.TEXT:
                        yield got.data
                    elif got.opcode == Opcode.PING:
                        self._write(Opcode.PONG, got.data)
                    elif got.opcode == Opcode.CLOSE:
                        self.code, self.reason = read_close(got.data)
                        self.close(self.code)
                        return
        except ProtocolError as error:
            self.reason = error.reason
            self.close(error.code)
        except TimeoutError:
            self.reason = f"nothing came for {self._silent_s:g} s"
        except OSError as error:
            self.reason = error.strerror or type(error).__name__

    def send(self, text: bytes) -> None:
        """A text message. Raises `Overloaded` while too much waits to be taken."""
        if self._writer.transport.get_write_buffer_size() > _WAITING_BYTES_MAX:
            raise Overloaded("the gateway takes nothing at the moment", code="gateway_slow", retry_after_s=1.0)
        self._write(Opcode.TEXT, text)

    def close(self, code: int | None = CloseCode.NORMAL) -> None:
        """Say that it is over; `messages` ends with the peer's answer."""
        if not self._closing:
            self._closing = True
            self._write(Opcode.CLOSE, b"" if code is None else code.to_bytes(2, "big"))

    async def drop(self) -> None:
        """Let go, now."""
        self._writer.close()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await self._writer.wait_closed()
        self._writer.transport.abort()

    def _write(self, kind: Opcode, data: bytes) -> None:
        if not self._writer.is_closing():
            plain = self._plain
            self._writer.write(encode_plain(kind, data) if plain else encode_frame(kind, data, key=os.urandom(4)))


async def open_link(
    address: Address, headers: Mapping[str, str], *, timeout_s: float, silent_s: float, message_bytes_max: int
) -> Link:
    """Connect and shake hands. Raises what `greeting.check_answer` does, and `Unavailable` when nobody is there."""
    key = new_key(os.urandom(16))
    request = ask(address, key, headers)
    where = address.authority
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(
                address.host, address.port, ssl=address.tls or None, limit=ANSWER_BYTES_MAX
            )
            writer.write(request)
            answer = read_answer(await reader.readuntil(b"\r\n\r\n"))
            body = b""
            if answer.status != 101:
                with suppress(asyncio.IncompleteReadError):
                    body = await reader.readexactly(answer.body_bytes)
            check_answer(answer, key, body, plain=address.plain)
    except TimeoutError:
        failed = Unavailable(f"{where} did not answer within {timeout_s:g} s", code="gateway_unreachable")
    except asyncio.IncompleteReadError:
        failed = Unavailable(f"{where} closed the connection without an answer", code="gateway_unreachable")
    except asyncio.LimitOverrunError:
        failed = Unavailable(f"{where} answered with over {ANSWER_BYTES_MAX} bytes", code="no_gateway")
    except OSError as error:
        failed = Unavailable(f"{where}: {error.strerror or error}", code="gateway_unreachable")
    except BaseException:
        if writer is not None:
            writer.transport.abort()
        raise
    else:
        return Link(reader, writer, plain=address.plain, message_bytes_max=message_bytes_max, silent_s=silent_s)
    if writer is not None:
        writer.transport.abort()
    raise failed

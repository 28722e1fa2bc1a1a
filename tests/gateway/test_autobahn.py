"""The published cases of the Autobahn test suite (sections 1 to 7, 9 and 10), by their numbers, in strict mode.

A server that echoes what it hears stands on a port; each case is what a client sends, and exactly what it gets. A
connection that is reset is a failure everywhere: whoever is shown out must be able to read why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pytest

from dougong.gateway.connection import Connection
from dougong.gateway.doorway import Grant
from dougong.gateway.frames import FrameLimits, FrameReader, Opcode, encode_close, encode_frame
from dougong.gateway.gateway import Gateway
from dougong.gateway.handshake import Upgrade
from dougong.gateway.settings import GatewaySettings

PATIENCE_S = 180.0
MB = 1024 * 1024
HUGE = FrameLimits(message_bytes_max=16 * MB, fragments_max=70_000)
ANSWERS = FrameLimits(message_bytes_max=16 * MB, masked=False)
HELLO = (
    b"GET /live HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
CONT, TEXT, BINARY, CLOSE, PING, PONG = Opcode
KEY = b"\x37\xfa\x21\x3d"


class Echo(Gateway):
    async def start(self, host: str = "127.0.0.1", port: int = 0, *, shared: bool = False) -> int:
        port = await super().start(host, port, shared=shared)
        self._hearing._said = self._echo
        self._hearing._binary = lambda connection, data: self._writing.write(connection, encode_frame(BINARY, data))
        return port

    def _echo(self, connection: Connection, texts: Sequence[bytes]) -> None:
        for text in texts:
            self._writing.write(connection, encode_frame(TEXT, text))


async def anybody(upgrade: Upgrade) -> Grant:
    return Grant(user="1")


class Case(NamedTuple):
    sent: Sequence[bytes]
    """Frames."""
    expected: Sequence[tuple[int, bytes]]
    """Frames that come back before the close; messages in one piece."""
    code: int | None = 1000
    """Of the close frame that comes back; when the case does not close, the client does so at its end, with 1000."""
    fails: bool = False
    """The server has to close by itself."""
    chop: int = 0
    """Bytes in one write; 0 is all at once."""


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    whole = encode_frame(opcode, data, key=KEY, fin=fin)
    return bytes([whole[0] | rsv << 4]) + whole[1:]


def cheap(opcode: int, data: bytes, *, fin: bool = True) -> bytes:
    """Masked with zeros, which changes nothing and costs nothing."""
    plain = encode_frame(opcode, data, fin=fin)
    head = len(plain) - len(data)
    return bytes((plain[0], plain[1] | 0x80)) + plain[2:head] + bytes(4) + data


def echoed(opcode: int, data: bytes, *, chop: int = 0) -> Case:
    return Case([cheap(opcode, data)], [(opcode, data)], chop=chop)


def failing(
    sent: Sequence[bytes], expected: Sequence[tuple[int, bytes]] = (), *, code: int = 1002, chop: int = 0
) -> Case:
    return Case(sent, expected, code, fails=True, chop=chop)


def parts(opcode: int, *data: bytes) -> list[bytes]:
    return [cheap(CONT if n else opcode, one, fin=n == len(data) - 1) for n, one in enumerate(data)]


def fragments(opcode: int, data: bytes, size: int) -> list[bytes]:
    return parts(opcode, *(data[at : at + size] for at in range(0, len(data), size)))


Cases = dict[str, Case]


def framing() -> Cases:
    cases: Cases = {}
    for group, opcode, byte in (("1.1", TEXT, b"*"), ("1.2", BINARY, b"\xfe")):
        for number, size in enumerate((0, 125, 126, 127, 128, 65_535, 65_536), 1):
            cases[f"{group}.{number}"] = echoed(opcode, byte * size)
        cases[f"{group}.8"] = echoed(opcode, byte * 65_536, chop=997)
    return cases


def pings() -> Cases:
    odd, full = b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"\xfe" * 125
    ten = [b"payload-%d" % number for number in range(10)]
    return {
        "2.1": Case([frame(PING)], [(PONG, b"")]),
        "2.2": Case([frame(PING, b"Hello, world!")], [(PONG, b"Hello, world!")]),
        "2.3": Case([frame(PING, odd)], [(PONG, odd)]),
        "2.4": Case([frame(PING, full)], [(PONG, full)]),
        "2.5": failing([frame(PING, b"\xfe" * 126)]),
        "2.6": Case([frame(PING, full)], [(PONG, full)], chop=1),
        "2.7": Case([frame(PONG)], []),
        "2.8": Case([frame(PONG, b"unasked")], []),
        "2.9": Case([frame(PONG, b"unasked"), frame(PING, b"asked")], [(PONG, b"asked")]),
        "2.10": Case([frame(PING, one) for one in ten], [(PONG, one) for one in ten]),
        "2.11": Case([frame(PING, one) for one in ten], [(PONG, one) for one in ten], chop=1),
    }


def reserved_bits() -> Cases:
    text, told = frame(TEXT, b"Hello"), [(TEXT, b"Hello")]
    return {
        "3.1": failing([frame(TEXT, b"Hello", rsv=1)]),
        "3.2": failing([text, frame(TEXT, b"Hello", rsv=2), frame(PING)], told),
        "3.3": failing([text, frame(TEXT, b"Hello", rsv=3), frame(PING)], told, chop=11),
        "3.4": failing([text, frame(TEXT, b"Hello", rsv=4), frame(PING)], told, chop=1),
        "3.5": failing([frame(BINARY, b"\0\xff", rsv=5)]),
        "3.6": failing([frame(PING, b"Hello", rsv=6)]),
        "3.7": failing([frame(CLOSE, rsv=7)]),
    }


def opcodes() -> Cases:
    text, told = frame(TEXT, b"Hello"), [(TEXT, b"Hello")]
    cases: Cases = {}
    for group, first in (("4.1", 3), ("4.2", 11)):
        cases[f"{group}.1"] = failing([frame(first)])
        cases[f"{group}.2"] = failing([frame(first + 1, b"odd")])
        cases[f"{group}.3"] = failing([text, frame(first + 2), frame(PING)], told)
        cases[f"{group}.4"] = failing([text, frame(first + 3, b"odd"), frame(PING)], told)
        cases[f"{group}.5"] = failing([text, frame(first + 4, b"odd"), frame(PING)], told, chop=1)
    return cases


def fragmentation() -> Cases:
    two, told = parts(TEXT, b"fragment1", b"fragment2"), [(TEXT, b"fragment1fragment2")]
    mixed, mixed_told = [two[0], frame(PING, b"ping"), two[1]], [(PONG, b"ping"), *told]
    cases = {
        "5.1": failing([frame(PING, b"1", fin=False), frame(CONT, b"2")]),
        "5.2": failing([frame(PONG, b"1", fin=False), frame(CONT, b"2")]),
        "5.15": failing([*two, frame(CONT, b"3", fin=False), frame(TEXT, b"4")], told),
        "5.16": failing([frame(CONT, b"1", fin=False), frame(TEXT, b"2", fin=False), frame(CONT, b"3")] * 2),
        "5.17": failing([frame(CONT, b"1"), frame(TEXT, b"2", fin=False), frame(CONT, b"3")] * 2),
        "5.18": failing([frame(TEXT, b"1", fin=False), frame(TEXT, b"2")]),
    }
    for number, chop in enumerate((0, 15, 1)):
        cases[f"5.{3 + number}"] = Case(two, told, chop=chop)
        cases[f"5.{6 + number}"] = Case(mixed, mixed_told, chop=chop)
        cases[f"5.{9 + number}"] = failing([frame(CONT, b"nothing"), frame(TEXT, b"Hello")], chop=chop)
        cases[f"5.{12 + number}"] = failing([frame(CONT, b"nothing", fin=False), frame(TEXT, b"Hello")], chop=chop)
    five = parts(TEXT, *(b"fragment%d" % number for number in range(1, 6)))
    between = [*five[:2], frame(PING, b"one"), *five[2:4], frame(PING, b"two"), five[4]]
    answers = [(PONG, b"one"), (PONG, b"two"), (TEXT, b"fragment1fragment2fragment3fragment4fragment5")]
    cases["5.19"], cases["5.20"] = Case(between, answers), Case(between, answers, chop=15)
    return cases


KOSME = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5"
LONG = "Hello-µ@ßöäüàá-UTF-8!!".encode()
VALID = {
    "6.5": [KOSME, b"a" + KOSME, KOSME + b"z", KOSME * 2, LONG],
    "6.7": [b"\x00", b"\xc2\x80", b"\xe0\xa0\x80", b"\xf0\x90\x80\x80"],
    "6.9": [b"\x7f", b"\xdf\xbf", b"\xef\xbf\xbf", b"\xf4\x8f\xbf\xbf"],
    "6.11": [b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xef\xbf\xbd", b"\xf4\x8f\xbf\xbf"],
    "6.22": [chr(plane << 16 | last).encode() for plane in range(17) for last in (0xFFFE, 0xFFFF)],
    "6.23": [chr(point).encode() for point in range(0xFFF9, 0x10000)],
}
INVALID = {
    "6.8": [b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80"],
    "6.10": [b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf"],
    "6.12": [b"\x80", b"\xbf", *(b"\x80\xbf" * n + b"\x80" * (n % 2) for n in range(1, 6)), bytes(range(0x80, 0xC0))],
    "6.13": [
        b"".join(bytes([byte]) + b" " for byte in range(low, high))
        for low, high in ((0xC0, 0xE0), (0xE0, 0xF0), (0xF0, 0xF8), (0xF8, 0xFC), (0xFC, 0xFE))
    ],
    "6.14": [
        b"\xc0", b"\xe0\x80", b"\xf0\x80\x80", b"\xf8\x80\x80\x80", b"\xfc\x80\x80\x80\x80",
        b"\xdf", b"\xef\xbf", b"\xf7\xbf\xbf", b"\xfb\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf",
    ],
    "6.15": [b"\xc0\xe0\x80\xf0\x80\x80\xf8\x80\x80\x80\xfc\x80\x80\x80\x80\xdf\xef\xbf\xf7\xbf\xbf"],
    "6.16": [b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"],
    "6.17": [b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xf8\x80\x80\x80\xaf", b"\xfc\x80\x80\x80\x80\xaf"],
    "6.18": [
        b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xf8\x87\xbf\xbf\xbf", b"\xfc\x83\xbf\xbf\xbf\xbf",
    ],
    "6.19": [b"\xc0\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xf8\x80\x80\x80\x80", b"\xfc\x80\x80\x80\x80\x80"],
    "6.20": [bytes([0xED, *rest]) for rest in (
        (0xA0, 0x80), (0xAD, 0xBF), (0xAE, 0x80), (0xAF, 0xBF), (0xB0, 0x80), (0xBE, 0x80), (0xBF, 0xBF))],
    "6.21": [bytes([0xED, *high, 0xED, *low]) for high in ((0xA0, 0x80), (0xAD, 0xBF), (0xAE, 0x80), (0xAF, 0xBF))
             for low in ((0xB0, 0x80), (0xBF, 0xBF))],
}  # fmt: skip


def utf8() -> Cases:
    wrong = KOSME + b"\xed\xa0\x80edited"
    start, rest = KOSME + b"\xf4", b"\x90\x80\x80edited"
    cases = {
        "6.1.1": echoed(TEXT, b""),
        "6.1.2": Case(parts(TEXT, b"", b"", b""), [(TEXT, b"")]),
        "6.1.3": Case(parts(TEXT, b"", b"middle", b""), [(TEXT, b"middle")]),
        "6.2.1": echoed(TEXT, LONG),
        "6.2.2": Case(parts(TEXT, LONG[:8], LONG[8:]), [(TEXT, LONG)]),
        "6.2.3": Case(fragments(TEXT, LONG, 1), [(TEXT, LONG)]),
        "6.2.4": Case(fragments(TEXT, KOSME, 1), [(TEXT, KOSME)]),
        "6.3.1": failing([frame(TEXT, wrong)], code=1007),
        "6.3.2": failing(fragments(TEXT, wrong, 1), code=1007),
        # The rest is never sent: it has to be seen in what is there.
        "6.4.1": failing(parts(TEXT, KOSME, b"\xf4\x90\x80\x80", b"edited")[:2], code=1007),
        "6.4.2": failing(parts(TEXT, start, b"\x90", b"\x80\x80edited")[:2], code=1007),
        "6.4.3": failing([cheap(TEXT, start + rest)[: 6 + len(start) + 3]], code=1007),
        "6.4.4": failing([cheap(TEXT, start + rest)[: 6 + len(start) + 1]], code=1007),
    }
    for cut in range(1, len(KOSME) + 1):
        part = KOSME[:cut]
        cases[f"6.6.{cut}"] = echoed(TEXT, part) if cut in {2, 5, 7, 9, 11} else failing([frame(TEXT, part)], code=1007)
    for group, texts in VALID.items():
        cases |= {f"{group}.{number}": echoed(TEXT, text) for number, text in enumerate(texts, 1)}
    for group, texts in INVALID.items():
        cases |= {f"{group}.{number}": failing([frame(TEXT, text)], code=1007) for number, text in enumerate(texts, 1)}
    cases["6.11.5"] = failing([frame(TEXT, b"\xf4\x90\x80\x80")], code=1007)
    return cases


def closing() -> Cases:
    def bye(code: int, reason: bytes = b"") -> bytes:
        return frame(CLOSE, code.to_bytes(2, "big") + reason)

    ok, hello, told = bye(1000), frame(TEXT, b"Hello"), [(TEXT, b"Hello")]
    half = parts(TEXT, b"fragment1", b"fragment2")
    large = b"BAsd7&jh23" * 26_000
    cases = {
        "7.1.1": Case([hello, ok], told),
        "7.1.2": Case([ok, ok], []),
        "7.1.3": Case([ok, frame(PING)], []),
        "7.1.4": Case([ok, hello], []),
        "7.1.5": Case([half[0], ok, half[1]], []),
        "7.1.6": Case([cheap(TEXT, large), ok, frame(PING)], [(TEXT, large)]),
        "7.3.1": Case([frame(CLOSE)], [], None),
        "7.3.2": failing([frame(CLOSE, b"a")]),
        "7.3.3": Case([ok], []),
        "7.3.4": Case([bye(1000, b"Hello World!")], []),
        "7.3.5": Case([bye(1000, b"*" * 123)], []),
        "7.3.6": failing([bye(1000, b"*" * 124)]),
        "7.5.1": failing([bye(1000, KOSME + b"\xed\xa0\x80")], code=1007),
    }
    allowed = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
    cases |= {f"7.7.{n}": Case([bye(code)], [], code) for n, code in enumerate(allowed, 1)}
    reserved = (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999)
    cases |= {f"7.9.{n}": failing([bye(code)]) for n, code in enumerate(reserved, 1)}
    return cases | {f"7.13.{n}": failing([bye(code)]) for n, code in enumerate((5000, 65_535), 1)}


def limits() -> Cases:
    cases: Cases = {}
    for group, opcode, byte in ((0, TEXT, b"*"), (1, BINARY, b"\xfe")):
        for number, size in enumerate((65_536, 262_144, MB, 4 * MB, 8 * MB, 16 * MB), 1):
            cases[f"9.{1 + group}.{number}"] = echoed(opcode, byte * size)
        four, one = byte * 4 * MB, byte * MB
        for number, size in enumerate((64, 256, 1024, 4096, 16_384, 65_536, 262_144, MB, 4 * MB), 1):
            cases[f"9.{3 + group}.{number}"] = Case(fragments(opcode, four, size), [(opcode, four)])
        for number, chop in enumerate((64, 128, 256, 512, 1024, 2048), 1):
            cases[f"9.{5 + group}.{number}"] = echoed(opcode, one, chop=chop)
        for number, size in enumerate((0, 16, 64, 256, 1024, 4096), 1):
            cases[f"9.{7 + group}.{number}"] = Case(
                [cheap(opcode, byte * size)] * 1000, [(opcode, byte * size)] * 1000, chop=size + 6
            )
    return cases


def automatic_fragments() -> Cases:
    return {"10.1.1": Case(fragments(TEXT, b"*" * 65_536, 1300), [(TEXT, b"*" * 65_536)])}


SECTIONS = {
    "1": framing, "2": pings, "3": reserved_bits, "4": opcodes, "5": fragmentation, "6": utf8, "7": closing,
    "9": limits, "10": automatic_fragments,
}  # fmt: skip


def pieces(case: Case) -> Iterable[bytes]:
    ends = case.fails or any(one[0] & 0x0F == CLOSE for one in case.sent)
    whole = b"".join(case.sent) + (b"" if ends else encode_close(1000, key=KEY))
    return [whole[at : at + case.chop] for at in range(0, len(whole), case.chop)] if case.chop else [whole]


async def run(port: int, case: Case) -> tuple[list[tuple[int, bytes]], int | None]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=MB)

    async def send() -> None:
        writer.write(HELLO)
        await writer.drain()
        await hello.wait()
        for piece in pieces(case):
            writer.write(piece)
            await writer.drain()
            if case.chop < 64:
                await asyncio.sleep(0)

    hello, got, frames = asyncio.Event(), list[tuple[int, bytes]](), FrameReader()
    sending = asyncio.create_task(send())
    try:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        hello.set()
        while data := await reader.read(MB):
            got += [(one.opcode, one.data) for one in frames.feed(data, ANSWERS)]
        await sending
    finally:
        sending.cancel()
        writer.close()
    assert got, "no close frame"
    last, said = got.pop()
    assert last == CLOSE
    return got, int.from_bytes(said[:2], "big") if said else None


async def outcome(port: int, case: Case, at_once: asyncio.Semaphore) -> str:
    async with at_once:
        try:
            got, code = await run(port, case)
        except (OSError, AssertionError, EOFError) as error:
            return repr(error)
    if got != list(case.expected):
        return f"{len(got)} frames, not the {len(case.expected)} expected: {str(got)[:100]}"
    return "" if code == case.code else f"closed with {code}, not {case.code}"


async def wrong(section: str) -> dict[str, str]:
    """What a section's cases got that they should not have got."""
    settings = GatewaySettings(
        frames=HUGE, outbox_bytes_max=64 * MB, outboxes_bytes_max=512 * MB, messages_per_s_max=1e6,
        connections_per_user_max=1000,
    )  # fmt: skip
    gateway, at_once = Echo(anybody, settings=settings), asyncio.Semaphore(4 if section == "9" else 100)
    port = await gateway.start()
    try:
        async with asyncio.timeout(PATIENCE_S):
            cases = SECTIONS[section]()
            told = await asyncio.gather(*(outcome(port, case, at_once) for case in cases.values()))
    finally:
        await gateway.stop()
    return {id_: one for id_, one in zip(cases, told, strict=True) if one}


@pytest.mark.parametrize("section", SECTIONS)
async def test_cases_of_section(section: str) -> None:
    assert await wrong(section) == {}


def test_all_cases_are_here() -> None:
    counted = {section: len(cases()) for section, cases in SECTIONS.items()}
    assert counted == {"1": 16, "2": 11, "3": 7, "4": 10, "5": 20, "6": 145, "7": 37, "9": 54, "10": 1}


async def test_a_server_that_checks_no_heads_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(self: FrameReader, *args: object) -> None:
        del self, args

    monkeypatch.setitem(SECTIONS, "3", lambda: {"3.1": Case([frame(TEXT, b"Hello", rsv=1)], [], 1002)})
    assert await wrong("3") == {}
    monkeypatch.setattr(FrameReader, "_check_head", nothing)
    assert "1 frames" in (await wrong("3"))["3.1"]

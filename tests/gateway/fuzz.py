"""What comes from outside, by the million: `python -m tests.gateway.fuzz --inputs 10000000`.

Inputs are mutations of what is right (`SEEDS`), so that most get past the first check; `check` reads each as a gateway
or a client would and says what became of it. It raises when a reader does what none may: fail otherwise than it says,
keep more than is allowed, or hear something else when the same bytes come in other pieces. With `--atheris` that
package (it is not among ours: `pip install atheris`) chooses inputs by what they reach.

Every thousand inputs may take 20 s of processor time: who takes longer hangs. Memory is looked at all the way.
"""

from __future__ import annotations

import argparse
import importlib
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType

from dougong.errors import Error, Invalid
from dougong.gateway import messages
from dougong.gateway.frames import (
    FrameLimits,
    FrameReader,
    Opcode,
    ProtocolError,
    Received,
    encode_close,
    encode_frame,
    read_close,
)
from dougong.gateway.greeting import check_answer, read_answer
from dougong.gateway.handshake import HEAD_BYTES_MAX, Refused, accept, end_of_head, read_head
from dougong.gateway.plain import PlainReader, encode_plain
from dougong.gateway.saying import Refusal, read_said

__all__ = ["SEEDS", "Mutations", "check", "main"]

BATCH = 1000
_BATCH_CPU_S = 20.0
_GROWTH_BYTES_MAX = 32 * 1024 * 1024
_KEY = b"\x01\x02\x03\x04"
_LIMITS = (FrameLimits(message_bytes_max=600, fragments_max=5), FrameLimits(message_bytes_max=600, masked=False))
_HEAD = (
    b"GET /live?user=7&access_token=a.b.c HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: keep-alive, "
    b"Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: "
    b"dougong, bearer.a.b.c\r\nOrigin: https://shop.example\r\nX-Forwarded-For: 10.0.0.1, 10.0.0.2\r\n\r\n"
)
_ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
_SAID = (
    b'{"kind":"call","id":1,"method":"shop.v1.Orders/Get","data":{"id":"42"},"timeout_s":2.5}',
    b'{"kind":"subscribe","id":2,"topic":"user:7","offset":["ab12",41]}',
    b'{"kind":"unsubscribe","id":3,"topic":"user:7"}',
)
_TOLD = (
    b'{"kind":"answer","id":1,"data":{"state":"shipped"}}',
    b'{"kind":"refused","id":1,"code":"not_found","family":"not_found","message":"no","retry_after_s":1.5}',
    b'{"kind":"subscribed","id":2,"topic":"user:7","offset":["ab12",42],"complete":true}',
    b'{"kind":"message","topic":"user:7","data":[1,2,null],"offset":["ab12",43]}',
    b'{"kind":"lost","topic":"user:7"}',
)


def _plain() -> bytes:
    return b"".join(
        encode_plain(kind, data)
        for kind, data in (
            (Opcode.TEXT, _SAID[0]),
            (Opcode.PING, b"there?"),
            (Opcode.TEXT, "茶".encode()),
            (Opcode.BINARY, bytes(300)),
            (Opcode.CLOSE, b"\x03\xe9good-bye"),
        )
    )


def _frames(key: bytes | None) -> bytes:
    text = "tea \N{TEACUP WITHOUT HANDLE}, and 茶".encode()
    return (
        encode_frame(Opcode.TEXT, _SAID[0], key=key)
        + encode_frame(Opcode.PING, b"there?", key=key)
        + encode_frame(Opcode.TEXT, text[:6], key=key, fin=False)
        + encode_frame(Opcode.PONG, b"", key=key)
        + encode_frame(Opcode.CONTINUATION, text[6:], key=key)
        + encode_frame(Opcode.BINARY, bytes(300), key=key)
        + encode_close(1001, "good-bye", key=key)
    )


SEEDS: tuple[bytes, ...] = (
    b"H" + _HEAD,
    b"A" + _ANSWER,
    b"A" + b"HTTP/1.1 503 Busy\r\nRetry-After: 5\r\nContent-Length: 4\r\n\r\nbusy",
    b"A" + b"HTTP/1.1 429 Too Many\r\nRetry-After: 5\r\nContent-Length: 22\r\n\r\ntoo_many: come later",
    b"F" + _frames(_KEY),
    b"F" + b"".join(encode_frame(Opcode.TEXT, said * (1 + number), key=_KEY) for number, said in enumerate(_SAID)),
    b"S" + _frames(None),
    b"P" + _plain(),
    b"H" + _HEAD.replace(b"websocket", b"dougong"),
    *(b"M" + one for one in _SAID),
    *(b"T" + one for one in _TOLD),
)
"""The first byte says who reads the rest: a gateway the head (H), frames (F, plain: P) and messages (M) of a client; a
client the answer (A), frames (S) and messages (T) of a gateway."""


class Wrong(AssertionError):
    """A reader did what none may."""


def check(data: bytes) -> str:
    """Read it; what became of it, in a word. Raises whatever none may raise, and `Wrong`."""
    reader, rest = data[:1], data[1:]
    match reader:
        case b"H":
            return _head(rest)
        case b"A":
            return _answer(rest)
        case b"F":
            return _heard(rest, _LIMITS[0])
        case b"S":
            return _heard(rest, _LIMITS[1])
        case b"P":
            return _heard(rest, _LIMITS[0], PlainReader)
        case b"M":
            return _message(rest)
        case _:
            return _told(rest)


def _head(data: bytes) -> str:
    try:
        end = end_of_head(data)
        if end < 0:
            if len(data) > HEAD_BYTES_MAX:
                raise Wrong("more of a head is kept than may be")
            return "head: more"
        upgrade = read_head(data[:end])
        for byte in accept(upgrade, protocol=upgrade.protocols[0] if upgrade.protocols else None):
            if byte > 0x7E or (byte < 0x20 and byte not in b"\r\n"):
                raise Wrong("what the client sent is in our answer as it was")
    except Refused as refused:
        if refused.response.count(b"\r\n\r\n") != 1:
            raise Wrong("the refusal has two heads") from None
        return f"head: {refused.status}"
    return "head: upgrade"


def _answer(data: bytes) -> str:
    head, _, body = data.partition(b"\r\n\r\n")
    try:
        answer = read_answer(head + b"\r\n\r\n")
        check_answer(answer, "dGhlIHNhbXBsZSBub25jZQ==", body[: answer.body_bytes])
    except Error as error:
        return f"answer: {type(error).__name__}"
    return "answer: open"


def _heard(data: bytes, limits: FrameLimits, kind: type[FrameReader] | None = None) -> str:
    """All at once, in two halves, byte by byte (long ones by some bytes), and in one step where it can be: it must be
    the same to the reader."""
    kind = kind if kind is not None else FrameReader
    whole = _feed(kind(), [data], limits)
    texts = kind().only_texts(data, limits)
    if texts is not None and whole != ([Received(Opcode.TEXT, text) for text in texts], "open"):
        raise Wrong("the same bytes in one step are something else")
    middle, step = len(data) // 2, 1 + len(data) // 500
    for pieces in ([data[:middle], data[middle:]], [data[at : at + step] for at in range(0, len(data), step)]):
        if _feed(kind(), pieces, limits) != whole:
            raise Wrong("the same bytes in other pieces are something else")
    return f"{'plain' if kind is PlainReader else 'frames' if texts is None else 'texts'}: {whole[1]}"


def _feed(reader: FrameReader, pieces: list[bytes], limits: FrameLimits) -> tuple[list[Received], str]:
    heard, end = list[Received](), "open"
    try:
        for piece in pieces:
            heard += reader.feed(piece, limits)
            kept = len(reader._rest) + (len(reader._message.data) if reader._message is not None else 0)
            if kept > limits.message_bytes_max + 13:
                raise Wrong("more is kept than a message may have")
            if heard and heard[-1].opcode == Opcode.CLOSE:
                code = read_close(heard[-1].data)[0]
                end = f"closed {code // 1000 if code is not None else 0}xxx"
                break
    except ProtocolError as error:
        heard += error.received
        end = str(error.code.value)
    for one in heard:
        if one.opcode == Opcode.TEXT:
            one.data.decode()
        if len(one.data) > limits.message_bytes_max:
            raise Wrong("a message is longer than it may be")
    return heard, end


def _message(data: bytes) -> str:
    try:
        data.decode()  # which the frames' reader has seen to
        return f"message: {type(messages.read(data)).__name__}"
    except UnicodeDecodeError:
        return "message: not text"
    except Invalid:
        messages.id_of(data)
        return "message: refused"


def _told(data: bytes) -> str:
    try:
        data.decode()  # here as well
    except UnicodeDecodeError:
        return "told: not text"
    said = read_said(data)
    if isinstance(said, Refusal):
        return f"told: {type(said.error).__name__}"
    return f"told: {type(said).__name__}"


class Mutations:
    """Inputs without end: one of `SEEDS` or of what came of them, changed once or a few times."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._pool = list(SEEDS)

    def next(self) -> bytes:
        chance = self._random
        data = bytearray(chance.choice(self._pool))
        for _ in range(1 + int(chance.random() ** 3 * 5)):
            self._change(data)
        return bytes(data[:10_000])

    def keep(self, data: bytes) -> None:
        """It led somewhere new: others may begin from there."""
        if len(self._pool) < 2000:
            self._pool.append(data)

    def _change(self, data: bytearray) -> None:
        chance = self._random
        at = 1 + int(chance.random() * (len(data) - 1)) if len(data) > 1 else len(data)
        match int(chance.random() * 8):
            case 0:
                data[at : at + 1] = bytes((int(chance.random() * 256),))
            case 1:
                data[at:at] = chance.randbytes(1 + int(chance.random() * 8))
            case 2:
                del data[at : at + 1 + int(chance.random() * 16)]
            case 3:
                data[at:at] = data[at : at + 1 + int(chance.random() * 64)]
            case 4:
                other = chance.choice(self._pool)
                data[at:] = other[1 + int(chance.random() * len(other)) :]
            case 5:
                if at < len(data):
                    data[at] ^= 1 << int(chance.random() * 8)
            case 6:
                data[at : at + 1] = chance.choice(
                    (b"\xff", b"\x00", b"\x7f", b"\r\n", b"9" * 20, b"9" * 4000, b"\xed\xa0\x80", b"[" * 2000)
                )
            case _:
                data[at : at + 2] = int(chance.random() * 65536).to_bytes(2, "big")


class _Hangs(Exception):
    pass


def _hangs(number: int, frame: FrameType | None) -> None:
    raise _Hangs


def run(inputs: int, seed: int, *, say_every: int = 0) -> Counter[str]:
    """So many inputs; how often what became of them. Whatever is wrong is raised, with the input as a note."""
    mutations, outcomes = Mutations(seed), Counter[str]()
    before = signal.signal(signal.SIGVTALRM, _hangs)
    data, started, resident = b"", time.monotonic(), 0
    try:
        for number in range(inputs):
            if number % BATCH == 0:
                signal.setitimer(signal.ITIMER_VIRTUAL, _BATCH_CPU_S)
            data = mutations.next()
            outcome = check(data)
            if outcome not in outcomes:
                mutations.keep(data)
            outcomes[outcome] += 1
            if say_every and (number + 1) % say_every == 0:
                now = _resident_bytes()
                resident = resident or now
                sys.stdout.write(
                    f"{number + 1:,} inputs, {len(outcomes)} outcomes, {now / 1e6:.1f} MB resident "
                    f"({(now - resident) / 1e6:+.1f}), {time.monotonic() - started:,.0f} s\n"
                )
                sys.stdout.flush()
                if now - resident > _GROWTH_BYTES_MAX:
                    raise Wrong("memory grows")
    except BaseException as error:
        error.add_note(f"seed {seed}, input {data!r}")
        raise
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    return outcomes


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main() -> None:
    """See the module's page."""
    parser = argparse.ArgumentParser(prog="python -m tests.gateway.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--atheris", action="store_true", help="choose inputs by what they reach")
    options = parser.parse_args()
    if options.atheris:
        _guided(options.inputs, options.seed)
        return
    outcomes = run(options.inputs, options.seed, say_every=max(1, options.inputs // 100))
    for outcome, count in outcomes.most_common():
        sys.stdout.write(f"{count:>12,}  {outcome}\n")


def _guided(inputs: int, seed: int) -> None:
    atheris = importlib.import_module("atheris")
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-atheris_runs={inputs}", f"-seed={seed}", "-max_len=10000", "-timeout=20"], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

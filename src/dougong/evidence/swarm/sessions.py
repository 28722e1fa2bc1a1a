"""The sessions of one process: epoll, and one byte of state each.

Nothing is allocated per session but that byte and a place in a list, and what comes is compared before it is parsed: of
a broadcast, all but the first are a read and a comparison. Frames that came in part have a reader while they do.
"""

from __future__ import annotations

import base64
import errno
import os
import select
import socket
import time
from collections import Counter
from collections.abc import Callable

import msgspec

from dougong.evidence.latency import Latencies
from dougong.evidence.swarm.news import Message, News
from dougong.evidence.swarm.options import CONNECT_TIMES, Connected, Counted, Share, Timed, address_of, read_target
from dougong.evidence.swarm.wire import KEY, text_frame, whole_texts
from dougong.gateway import FrameLimits, FrameReader, Opcode, ProtocolError, encode_frame, read_close

__all__ = ["Sessions"]

_IP_BIND_ADDRESS_NO_PORT = 24
"""linux/in.h: the port is chosen at connect, so that it is free for this pair of addresses and not for all."""
_NONE, _SHAKING, _OPEN, _MUTED = range(4)
_READ_BYTES = 4096
_EVENTS_MAX = 4096
_HANDSHAKES_MAX = 400
"""Under way at once: a gateway's queue of the kernel holds some thousands, and all processes share it."""
_PAUSE_S = 0.02
_BURST = 32
"""Connections begun at once. Sixty processes that each woke for one would spend their time on waking."""
_BURST_EVERY_S_MAX = 0.2
_FEW, _GATHER_S = 64, 0.001
_IN, _OUT, _HANG_UP, _EDGE = 0x1, 0x4, 0x2000, 1 << 31
"""As Linux numbers them: what has no epoll has no such names in `select`, and should be able to import this."""
_WATCH = _IN | _HANG_UP | _EDGE
"""Once for what comes: told again and again, the kernel would look at each session twice."""
_LIMITS = FrameLimits(masked=False, message_bytes_max=1 << 20)
_PING = encode_frame(Opcode.PING, b"")
_PONG = encode_frame(Opcode.PONG, b"", key=KEY)
_CHECK = encode_frame(Opcode.PING, b"alive?", key=KEY)
_ACCEPTED = b"HTTP/1.1 101 "


class _Told(msgspec.Struct):
    kind: str
    id: int | None = None
    topic: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")


_TOLD = msgspec.json.Decoder(_Told)


class _At(msgspec.Struct):
    at_us: int = 0


_AT = msgspec.json.Decoder(_At)


class Sessions:
    """One share of a swarm. Each method returns when it is done, and serves all sessions meanwhile."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._options = share.options
        self._targets = [read_target(target) for target in share.options.targets]
        self._epoll = select.epoll()
        self._states = bytearray(1 << 10)
        self._open: list[int] = []
        """Descriptors; those that are lost stay until the next `_compact`."""
        self._readers: dict[int, FrameReader] = {}
        self._heads: dict[int, bytes] = {}
        self._spare = FrameReader()
        self._key = base64.b64encode(os.urandom(16)).decode()
        self._absent = list(range(*share.numbers))
        """Sessions that `connect` is to open: all at first, then those that were refused."""
        self._numbers: dict[int, int] = {}
        """Of those whose handshake is under way, by descriptor."""
        self._shaking = 0
        self._said = Connected()
        self._refused: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._control = -1
        self._called = False
        """There is something to read on `_control`."""
        self._news = News()
        self._timed = Timed()
        self._cpu_s = 0.0
        self._round_trips = Latencies()
        self._due: dict[int | None, int] = {}
        """When the call of that number was due, in nanoseconds."""
        self._again: Callable[[int, int, int], None] | None = None
        """Closed loop: what a session does when it was answered, when that was, and how often."""

    # what is asked of it

    def connect(self) -> Connected:
        """Open all that were not opened yet, at the pace asked for; asked again, those that were refused come again.

        The rest is given up when none was answered as long as patience lasts.
        """
        start, sent, numbers = time.monotonic(), 0, self._absent
        self._absent = []
        self._refused.clear()
        answered, since = 0, start
        give_up = start + CONNECT_TIMES * len(numbers) / self._share.per_s + self._options.patience_s
        pause_s = min(_BURST / self._share.per_s, _BURST_EVERY_S_MAX)
        while sent < len(numbers) or self._shaking:
            now = time.monotonic()
            if sent - self._shaking > answered:
                answered, since = sent - self._shaking, now
            if now > min(give_up, since + self._options.patience_s):
                break
            due = min(len(numbers), int((now - start) * self._share.per_s) + 1)
            while sent < due and self._shaking < _HANDSHAKES_MAX:
                self._begin(numbers[sent], sent)
                sent += 1
            if sent < len(numbers):
                time.sleep(pause_s)
            self._turn(0.0 if sent < len(numbers) else _PAUSE_S)
        for fd in list(self._numbers):
            self._close(fd, "no answer in time")
        if sent < len(numbers):
            self._refused["not begun in time"] += len(numbers) - sent
            self._absent.extend(numbers[sent:])
        self._said.seconds += time.monotonic() - start
        return self.report()

    def report(self) -> Connected:
        """How it stands."""
        self._compact()
        said = self._said
        said.open = len(self._open)
        said.refused, said.lost = dict(self._refused), dict(self._lost)
        said.muted = sum(self._states[fd] == _MUTED for fd in self._open)
        said.cpu_s = time.process_time()
        return said

    def hold(self, seconds: float) -> Connected:
        """Answer pings for so long."""
        self._until(time.monotonic() + seconds, lambda: False)
        return self.report()

    def check(self, per_s: float) -> Timed:
        """Ping each, so many a second, and wait until all have answered, or patience is over."""
        self._begin_timed()
        self._compact()
        start = time.monotonic()
        for number, fd in enumerate(self._open):
            due = start + number / per_s
            while time.monotonic() < due:
                self._turn(min(_PAUSE_S, max(0.0, due - time.monotonic())))
            if self._states[fd] == _OPEN and self._write(fd, _CHECK):
                self._due[-fd - 1] = int(due * 1e9)
                self._timed.sent += 1
            if number % 64 == 0:
                self._turn(0.0)
        self._until(time.monotonic() + self._options.patience_s, lambda: not self._due)
        return self._end_timed(start)

    def mute(self, count: int) -> Connected:
        """So many answer nothing from now on."""
        self._compact()
        for fd in self._open:
            if count and self._states[fd] == _OPEN:
                self._states[fd] = _MUTED
                count -= 1
        return self.report()

    def call(self, method: str, size: int, seconds: float, rate: float, in_flight: int, each: int) -> Timed:
        """Calls for so long: `rate` a second whether or not answers come; at 0, `in_flight` sessions each have `each`
        under way, and call again, in one write, as often as they were answered in one read."""
        self._begin_timed()
        self._compact()
        start = time.monotonic()
        end = start + seconds
        data = msgspec.json.encode({"kind": "call", "id": 0, "method": method, "data": "x" * size})
        before, after = data.split(b'"id":0', 1)
        callers, lag_ns = [fd for fd in self._open if self._states[fd] == _OPEN], 0
        number = 0

        def send(fd: int, due_ns: int, count: int) -> None:
            nonlocal number, lag_ns
            if rate > 0:
                lag_ns += time.monotonic_ns() - due_ns
            numbers = range(number + 1, number + 1 + count)
            number += count
            frames = [text_frame(b'%b"id":%d%b' % (before, one, after)) for one in numbers]
            if self._write(fd, b"".join(frames)):
                self._due.update(dict.fromkeys(numbers, due_ns))
                self._timed.sent += count

        if callers and rate <= 0:
            self._again = send
            for fd in callers[:in_flight]:
                send(fd, time.monotonic_ns(), each)
            self._until(end, lambda: False)
            self._again = None
        elif callers:
            due = 0
            while (now := time.monotonic()) < end:
                while start + due / rate <= now:
                    send(callers[due % len(callers)], int((start + due / rate) * 1e9), 1)
                    due += 1
                self._turn(min(_PAUSE_S, max(0.0, start + due / rate - time.monotonic())))
        answered = self._timed.answered
        took = time.monotonic() - start
        self._until(time.monotonic() + self._options.patience_s, lambda: not self._due)
        timed = self._end_timed(start)
        if rate <= 0:
            timed.seconds = took * timed.answered / answered if answered else took
        timed.lag_ms = lag_ns / 1e6 / max(1, timed.sent)
        return timed

    def counted(self) -> Counted:
        """What was published since the last time."""
        self._turn(0.0)
        return self._news.counted()

    def abort(self) -> Connected:
        """Reset all connections: the kernel forgets this end of them at once."""
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        for fd in range(len(self._states)):
            if self._states[fd]:
                one = socket.socket(fileno=fd)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                one.close()
                self._states[fd] = _NONE
        self._shaking = 0
        self._numbers.clear()
        return self.report()

    def serve_until(self, control: int) -> None:
        """Answer pings until there is something to read on `control`.

        When little came, more comes soon: of a broadcast, each message would wake us by itself, at twice the cost to us
        and to the sender. So it is gathered for a moment, and counts as read when it was.
        """
        self._epoll.register(control, _IN)
        self._control, self._called = control, False
        try:
            while not self._called:
                if 0 < self._turn(1.0) < _FEW and not self._called:
                    time.sleep(_GATHER_S)
        finally:
            self._control = -1
            self._epoll.unregister(control)

    # opening

    def _begin(self, number: int, nth: int) -> None:
        host, port = self._targets[number % len(self._targets)]
        one = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            one.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.bind((address_of(self._share.process, nth), 0))
            code = one.connect_ex((host, port))
        except OSError as error:
            code = error.errno or errno.EIO
        if code not in {0, errno.EINPROGRESS}:
            one.close()
            self._refuse(number, os.strerror(code))
            return
        fd = one.detach()
        if fd >= len(self._states):
            self._states.extend(bytes(len(self._states)))
        self._states[fd] = _SHAKING
        self._numbers[fd] = number
        self._shaking += 1
        lines = [f"GET {self._options.path.format(number=number)} HTTP/1.1", f"Host: {host}:{port}"]
        lines += ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
        lines.append(f"Sec-WebSocket-Key: {self._key}")
        lines += (f"{name}: {value}" for name, value in self._options.headers.items())
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        try:
            os.write(fd, head)  # on loopback it is connected by now
            self._epoll.register(fd, _IN)
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.ENOTCONN}:
                self._close(fd, error.strerror or "broken")
                return
            self._heads[fd] = head
            self._epoll.register(fd, _OUT)

    def _shake(self, fd: int, event: int) -> None:
        if event & _OUT:
            try:
                os.write(fd, self._heads.pop(fd))
                self._epoll.modify(fd, _IN)
            except OSError as error:
                self._close(fd, error.strerror or "broken")
            return
        data = self._read(fd)
        if not data:
            return
        data = self._heads.pop(fd, b"") + data
        head, found, rest = data.partition(b"\r\n\r\n")
        if not found:
            self._heads[fd] = data
            return
        if not head.startswith(_ACCEPTED):
            self._close(fd, head.split(b"\r\n", 1)[0].decode("latin-1")[:80])
            return
        self._shaking -= 1
        del self._numbers[fd]
        self._states[fd] = _OPEN
        self._open.append(fd)
        self._epoll.modify(fd, _WATCH)
        if rest:
            self._hear(fd, rest)

    # reading

    def _turn(self, timeout_s: float) -> int:
        """Hear what came, or comes in time; how many sessions something came for."""
        states, known, again = self._states, self._news.known, False
        events = self._epoll.poll(timeout_s, _EVENTS_MAX)
        for fd, event in events:
            if fd == self._control:
                self._called = True
                continue
            state = states[fd]
            if state >= _OPEN:
                try:
                    data = os.read(fd, _READ_BYTES)
                except BlockingIOError:
                    continue
                except OSError as error:
                    self._close(fd, error.strerror or "broken")
                    continue
                if (read := known.get(data)) is not None and fd not in self._readers:
                    read.count += 1
                    again = True
                elif data == _PING:
                    if state == _OPEN and self._write(fd, _PONG):
                        self._said.pings += 1
                elif data:
                    self._hear(fd, data)
                else:
                    self._close(fd, "closed by the peer")
                if (event != _IN or len(data) == _READ_BYTES) and states[fd]:
                    self._epoll.modify(fd, _WATCH)  # there may be more, or the end: it is told again if so
            elif state == _SHAKING:
                self._shake(fd, event)
        if again:
            self._news.add_up()
        return len(events)

    def _until(self, end: float, done: Callable[[], bool]) -> None:
        while not done() and (left := end - time.monotonic()) > 0:
            self._turn(min(left, _PAUSE_S))

    def _read(self, fd: int) -> bytes:
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError as error:
            self._close(fd, error.strerror or "broken")
            return b""
        if not data:
            self._close(fd, "closed by the peer")
        return data

    def _hear(self, fd: int, data: bytes) -> None:
        """What is not known by sight."""
        texts = whole_texts(data) if fd not in self._readers else None
        messages: list[Message] = []
        answered: Counter[int] = Counter()
        failed = self._timed.failed
        for text in texts if texts is not None else self._frames(fd, data):
            try:
                told = _TOLD.decode(text)
                if told.kind == "message":
                    at_us = _AT.decode(told.data).at_us if bytes(told.data)[:1] == b"{" else 0
                    messages.append(Message(told.topic, at_us))
                    continue
            except msgspec.DecodeError:
                self._timed.failed += 1
                continue
            due = self._due.pop(told.id, None)
            if due is not None and told.kind == "answer":
                answered[due] += 1
            elif due is not None:
                self._timed.failed += 1
        if texts is not None and len(messages) == len(texts):
            self._news.learn(data, messages)
        else:
            for message in messages:
                self._news.came(message)
        self._answered(fd, answered, self._timed.failed - failed)

    def _frames(self, fd: int, data: bytes) -> list[bytes]:
        """What came, whatever it is: texts are for the caller, all else is dealt with."""
        reader = self._readers.pop(fd, None) or self._spare
        try:
            got = reader.feed(data, _LIMITS)
        except ProtocolError as error:
            self._spare = FrameReader()
            self._close(fd, f"protocol: {error.reason}")
            return []
        if reader.reading:
            self._readers[fd] = reader
            if reader is self._spare:
                self._spare = FrameReader()
        texts: list[bytes] = []
        for one in got:
            if one.opcode == Opcode.TEXT:
                texts.append(one.data)
            elif one.opcode == Opcode.PONG:
                self._alive(fd)
            elif one.opcode == Opcode.PING:
                if self._states[fd] == _OPEN and self._write(fd, encode_frame(Opcode.PONG, one.data, key=KEY)):
                    self._said.pings += 1
            elif one.opcode == Opcode.CLOSE:
                code, reason = read_close(one.data)
                self._close(fd, f"{code} {reason}".strip())
                break
        return texts

    def _alive(self, fd: int) -> None:
        due_ns = self._due.pop(-fd - 1, None)
        if due_ns is not None:
            self._timed.answered += 1
            self._round_trips.record((time.monotonic_ns() - due_ns) / 1e9)

    def _answered(self, fd: int, answered: Counter[int], failed: int) -> None:
        """How many of the calls that were due then."""
        count = answered.total()
        if not (count or failed):
            return
        now_ns = time.monotonic_ns()
        self._timed.answered += count
        for due_ns, times in answered.items():
            self._round_trips.record((now_ns - due_ns) / 1e9, times)
        if self._again is not None and self._states[fd] == _OPEN:
            self._again(fd, now_ns, count + failed)

    # bookkeeping

    def _write(self, fd: int, frame: bytes) -> bool:
        try:
            return os.write(fd, frame) == len(frame)
        except BlockingIOError:
            return False  # a peer that does not read us: what it misses shows
        except OSError as error:
            self._close(fd, error.strerror or "broken")
            return False

    def _close(self, fd: int, why: str) -> None:
        state = self._states[fd]
        if state == _NONE:
            return
        self._states[fd] = _NONE
        os.close(fd)
        self._readers.pop(fd, None)
        self._heads.pop(fd, None)
        self._due.pop(-fd - 1, None)
        if state == _SHAKING:
            self._shaking -= 1
            self._refuse(self._numbers.pop(fd), why)
        elif state == _MUTED:
            self._said.muted_lost += 1
        else:
            self._lost[why] += 1

    def _refuse(self, number: int, why: str) -> None:
        self._refused[why] += 1
        self._absent.append(number)

    def _compact(self) -> None:
        # A number that was lost and given again stands here twice.
        self._open = [fd for fd in dict.fromkeys(self._open) if self._states[fd] >= _OPEN]

    def _begin_timed(self) -> None:
        self._timed = Timed()
        self._round_trips = Latencies()
        self._due.clear()
        self._cpu_s = time.process_time()

    def _end_timed(self, start: float) -> Timed:
        timed = self._timed
        timed.seconds = time.monotonic() - start
        timed.cpu_s = time.process_time() - self._cpu_s
        timed.latency = self._round_trips.buckets()
        self._due.clear()
        return timed

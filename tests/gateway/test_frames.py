"""WebSocket frames: what is valid comes out whole however it was cut, what is not is refused with the right code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.gateway.frames import (
    CloseCode,
    FrameLimits,
    FrameReader,
    Opcode,
    ProtocolError,
    Received,
    encode_close,
    encode_frame,
    mask,
    read_close,
)

LIMITS = FrameLimits(message_bytes_max=70_000, fragments_max=8)
KEY = b"\x01\x02\x03\x04"


def client(opcode: int, data: bytes, *, fin: bool = True) -> bytes:
    return encode_frame(opcode, data, key=KEY, fin=fin)


def read(data: bytes, limits: FrameLimits = LIMITS, *, step: int = 0) -> list[Received]:
    reader = FrameReader()
    pieces = [data[at : at + step] for at in range(0, len(data), step)] if step else [data]
    return [one for piece in pieces for one in reader.feed(piece, limits)]


def refused(data: bytes, limits: FrameLimits = LIMITS, *, step: int = 0) -> CloseCode:
    with pytest.raises(ProtocolError) as caught:
        read(data, limits, step=step)
    return caught.value.code


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 65_535, 65_536, 69_999])
@pytest.mark.parametrize("step", [0, 1, 997])
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_messages_of_every_size_however_cut(opcode: Opcode, size: int, step: int) -> None:
    data = b"*" * size
    assert read(client(opcode, data), step=step) == [Received(opcode, data)]


def test_control_frames_come_between_fragments() -> None:
    data = (
        client(Opcode.TEXT, "grü".encode(), fin=False)
        + client(Opcode.PING, b"hi")
        + client(Opcode.CONTINUATION, b"", fin=False)
        + client(Opcode.PONG, b"")
        + client(Opcode.CONTINUATION, "ß".encode())
        + client(Opcode.CLOSE, b"")
    )
    expected = [
        Received(Opcode.PING, b"hi"),
        Received(Opcode.PONG, b""),
        Received(Opcode.TEXT, "grüß".encode()),
        Received(Opcode.CLOSE, b""),
    ]
    for step in (0, 1, 2, 3, 5):
        assert read(data, step=step) == expected


MESSAGES = st.lists(
    st.one_of(
        st.tuples(st.just(Opcode.TEXT), st.text(max_size=300).map(str.encode)),
        st.tuples(st.just(Opcode.BINARY), st.binary(max_size=300)),
        st.tuples(st.sampled_from([Opcode.PING, Opcode.PONG]), st.binary(max_size=125)),
    ),
    max_size=6,
)


@given(MESSAGES, st.data(), st.booleans())
def test_any_messages_in_any_fragments_and_any_segments(
    messages: list[tuple[Opcode, bytes]], data: st.DataObject, masked: bool
) -> None:
    key = KEY if masked else None
    sent = b""
    for opcode, payload in messages:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(payload)), max_size=4))) if opcode < Opcode.CLOSE else []
        parts = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        for number, part in enumerate(parts):
            kind = opcode if number == 0 else Opcode.CONTINUATION
            sent += encode_frame(kind, part, key=key, fin=number == len(parts) - 1)
    limits = FrameLimits(masked=masked)
    reader = FrameReader()
    got: list[Received] = []
    while sent:
        size = data.draw(st.integers(1, len(sent)))
        got += reader.feed(sent[:size], limits)
        sent = sent[size:]
    assert got == [Received(opcode, payload) for opcode, payload in messages]
    assert not reader.reading


@given(st.binary(max_size=200), st.integers(1, 20))
def test_any_bytes_are_read_or_refused_and_cutting_them_changes_nothing(data: bytes, step: int) -> None:
    def outcome(step: int) -> tuple[list[Received], CloseCode | None]:
        reader, got = FrameReader(), list[Received]()
        for at in range(0, len(data), step):
            try:
                got += reader.feed(data[at : at + step], LIMITS)
            except ProtocolError as error:
                return got, error.code
        return got, None

    whole, cut = outcome(max(1, len(data))), outcome(step)
    if whole[1] is None:
        assert whole == cut
    else:  # what came before the fault may have been handed out already
        assert cut[1] == whole[1]
        assert cut[0][: len(whole[0])] == whole[0]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (encode_frame(Opcode.TEXT, b"a"), CloseCode.PROTOCOL_ERROR),  # not masked
        (b"\xc1\x81" + KEY + b"a", CloseCode.PROTOCOL_ERROR),  # RSV1
        (b"\xa1\x81" + KEY + b"a", CloseCode.PROTOCOL_ERROR),
        (b"\x91\x81" + KEY + b"a", CloseCode.PROTOCOL_ERROR),
        *[(bytes((0x80 | opcode, 0x80)) + KEY, CloseCode.PROTOCOL_ERROR) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 15)],
        (client(Opcode.PING, b"", fin=False), CloseCode.PROTOCOL_ERROR),
        (client(Opcode.CLOSE, b"x" * 126), CloseCode.PROTOCOL_ERROR),
        (client(Opcode.CONTINUATION, b""), CloseCode.PROTOCOL_ERROR),
        (client(Opcode.TEXT, b"a", fin=False) + client(Opcode.TEXT, b"b"), CloseCode.PROTOCOL_ERROR),
        (b"\x82\xfe\x00\x05" + KEY, CloseCode.PROTOCOL_ERROR),  # a length in more bytes than it needs
        (b"\x82\xff" + (5).to_bytes(8, "big") + KEY, CloseCode.PROTOCOL_ERROR),
        (b"\x82\xff" + (1 << 63).to_bytes(8, "big"), CloseCode.TOO_BIG),
        (b"\x82\xff" + (70_001).to_bytes(8, "big"), CloseCode.TOO_BIG),  # by its head alone
        (client(Opcode.BINARY, b"x" * 40_000, fin=False) * 1 + b"\x80\xfe\x9c\x40", CloseCode.TOO_BIG),
        (client(Opcode.TEXT, b"", fin=False) + client(Opcode.CONTINUATION, b"", fin=False) * 8, CloseCode.POLICY),
        (client(Opcode.TEXT, b"\xff"), CloseCode.INVALID_TEXT),
        (client(Opcode.TEXT, "ü".encode()[:1]), CloseCode.INVALID_TEXT),  # ends within a character
        (client(Opcode.TEXT, b"\xed\xa0\x80"), CloseCode.INVALID_TEXT),  # half of a surrogate pair
    ],
)
@pytest.mark.parametrize("step", [0, 1])
def test_what_breaks_the_protocol_is_refused(data: bytes, code: CloseCode, step: int) -> None:
    assert refused(data, step=step) == code


def test_text_is_refused_at_the_first_byte_that_cannot_be() -> None:
    reader = FrameReader()
    frame = client(Opcode.TEXT, b"good\xf8" + b"x" * 1000)
    reader.feed(frame[:12], LIMITS)
    with pytest.raises(ProtocolError) as caught:
        reader.feed(frame[12:13], LIMITS)
    assert caught.value.code == CloseCode.INVALID_TEXT


def test_a_server_may_not_mask() -> None:
    limits = FrameLimits(masked=False)
    assert read(encode_frame(Opcode.TEXT, b"a"), limits) == [Received(Opcode.TEXT, b"a")]
    assert refused(client(Opcode.TEXT, b"a"), limits) == CloseCode.PROTOCOL_ERROR


@given(st.binary(max_size=100), st.binary(min_size=4, max_size=4))
def test_masking_twice_is_nothing(data: bytes, key: bytes) -> None:
    masked = mask(data, key)
    assert masked == bytes(byte ^ key[at % 4] for at, byte in enumerate(data))
    assert mask(masked, key) == data


def close(data: bytes) -> tuple[int | None, str]:
    (received,) = read(data, FrameLimits(masked=False))
    assert received.opcode == Opcode.CLOSE
    return read_close(received.data)


def test_a_close_says_why() -> None:
    assert close(encode_close()) == (None, "")
    assert close(encode_close(CloseCode.GOING_AWAY, "tschüß")) == (1001, "tschüß")
    code, reason = close(encode_close(4000, "ü" * 100))
    assert (code, reason) == (4000, "ü" * 61)  # 123 bytes would end within a character


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535])
def test_close_codes_that_nobody_may_send(code: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        read_close(code.to_bytes(2, "big"))
    assert caught.value.code == CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1014, 3000, 3999, 4000, 4999])
def test_close_codes_that_one_may_send(code: int) -> None:
    assert read_close(code.to_bytes(2, "big") + b"bye") == (code, "bye")


@pytest.mark.parametrize(("data", "code"), [(b"\x03", 1002), (b"\x03\xe8\xce\xba\xe1\xff", 1007)])
def test_close_frames_that_cannot_be_read(data: bytes, code: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        read_close(data)
    assert caught.value.code == code


@pytest.mark.parametrize("size", [2, 125, 126, 65_535])
def test_texts_alone_are_read_in_one_step(size: int) -> None:
    texts = [b"a" * size, b"hello", b"b" * size]
    for count in range(4):
        data = b"".join(client(Opcode.TEXT, text) for text in texts[:count])
        assert FrameReader().only_texts(data, LIMITS) == texts[:count]


@given(
    st.one_of(
        st.binary(max_size=140),
        st.builds(client, st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.PING]), st.binary(max_size=125)),
        st.builds(
            lambda texts, more: b"".join(client(Opcode.TEXT, text) for text in texts) + more,
            st.lists(st.binary(max_size=300), max_size=4),
            st.binary(max_size=2),
        ),
    )
)
def test_what_is_read_in_one_step_is_what_is_fed(data: bytes) -> None:
    reader = FrameReader()
    texts = reader.only_texts(data, LIMITS)
    assert not reader.reading
    if texts is not None:
        assert read(data) == [Received(Opcode.TEXT, text) for text in texts]


def test_what_is_no_text_alone_is_left_to_be_fed() -> None:
    whole = client(Opcode.TEXT, b"hello")
    for begun in (whole[:1], whole[:8], client(Opcode.TEXT, b"be", fin=False)):
        reader = FrameReader()
        reader.feed(begun, LIMITS)
        assert reader.only_texts(whole, LIMITS) is None, begun
    for other in (
        whole[:-1],
        whole + b"\x81",
        whole + whole[:-1],
        whole + client(Opcode.PING, b"there?"),
        bytes((0x81, 0x05)) + whole[2:],  # no mask
        client(Opcode.TEXT, "tëa".encode()),
        client(Opcode.TEXT, b"\xff\xff"),
        client(Opcode.TEXT, b"a" * 65_536),
        bytes((0x81, 0xFE, 0, 5)) + whole[2:],  # a length in more bytes than it needs
        bytes((0xC1,)) + whole[1:],
        encode_frame(Opcode.TEXT, b"a" * 20),
    ):
        assert FrameReader().only_texts(other, LIMITS) is None, other
    assert FrameReader().only_texts(whole, FrameLimits(message_bytes_max=4)) is None

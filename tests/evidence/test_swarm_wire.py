"""What a swarm reads and writes by the short way is what the long way says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dougong.evidence.swarm.wire import text_frame, whole_texts
from dougong.gateway import FrameLimits, FrameReader, Opcode, ProtocolError, encode_frame

LIMITS = FrameLimits(masked=False, message_bytes_max=1 << 20)
SIZES = st.sampled_from([0, 1, 2, 30, 125, 126, 200, 65_535, 65_536])
FRAMES = st.builds(
    lambda opcode, size: encode_frame(opcode, b"a" * size),
    st.sampled_from([Opcode.TEXT, Opcode.TEXT, Opcode.TEXT, Opcode.BINARY, Opcode.PING]),
    SIZES,
)


@given(
    st.one_of(
        st.binary(max_size=300),
        st.builds(lambda some, cut: b"".join(some)[cut:], st.lists(FRAMES, max_size=4), st.integers(0, 2)),
    )
)
def test_texts_alone_are_what_is_fed(data: bytes) -> None:
    texts = whole_texts(data)
    if texts is None or not all(text.isascii() for text in texts):
        return
    reader = FrameReader()
    try:
        got = [one.data for one in reader.feed(data, LIMITS)]
    except ProtocolError:  # a length in more bytes than it needs: to a server that says so, nothing is owed
        got = texts
    assert got == texts
    assert not reader.reading


def test_short_ones_are_found_whatever_their_number() -> None:
    for sizes in ([2], [2, 125], [126, 30, 65_535], [40] * 16):
        texts = [b"x" * size for size in sizes]
        assert whole_texts(b"".join(encode_frame(Opcode.TEXT, text) for text in texts)) == texts
    assert whole_texts(encode_frame(Opcode.TEXT, b"x" * 65_536)) is None
    assert whole_texts(encode_frame(Opcode.TEXT, b"xyz") + encode_frame(Opcode.PING, b"")) is None


@given(SIZES)
def test_what_is_written_is_what_a_server_takes(size: int) -> None:
    limits = FrameLimits(message_bytes_max=1 << 20)
    (got,) = FrameReader().feed(text_frame(b"y" * size), limits)
    assert (got.opcode, got.data) == (Opcode.TEXT, b"y" * size)

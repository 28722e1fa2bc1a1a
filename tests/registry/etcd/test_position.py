"""Where a watch stands, against streams that break, overlap, fragment and lie about progress."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.registry import Change, ChangeKind, Compacted
from dougong.registry.etcd.failures import Failed, Next
from dougong.registry.etcd.messages import Event, Watched
from dougong.registry.etcd.position import Position, Reopen

CLUSTER = 7


def put(revision: int, key: bytes = b"/a") -> Event:
    return Event(ChangeKind.PUT, key, revision, b"")


def reply(*events: Event, revision: int = 0, **more: object) -> Watched:
    at = revision or max((event.revision for event in events), default=0)
    fields: dict[str, object] = {"cluster": CLUSTER, "revision": at, "watch_id": 0, "events": events, **more}
    return Watched(**fields)  # type: ignore[arg-type]


def position(following: int) -> Position:
    return Position(following, bytes.decode)


def revisions(groups: list[tuple[Change, ...]]) -> list[int]:
    return [group[0].revision for group in groups]


def test_history_is_asked_for_with_one_revision_more() -> None:
    """Else etcd does not notice that what we want was compacted, if it was compacted up to exactly that."""
    assert position(5).open(revision=5) == 4
    assert position(5).open(revision=4) == 5
    assert position(1).open(revision=9) == 1


def test_what_is_before_is_dropped_and_what_is_new_comes_by_revision() -> None:
    at = position(5)
    at.open(9)
    assert at.feed(reply(created=True, revision=9)) == []
    groups = at.feed(reply(put(4), put(5), put(7, b"/b"), put(7, b"/a")))
    assert revisions(groups) == [5, 7]
    assert [change.key for change in groups[1]] == ["/a", "/b"]
    assert at.following == 8


def test_a_write_between_looking_and_watching_opens_it_again() -> None:
    at = position(5)
    at.open(4)
    with pytest.raises(Reopen):
        at.feed(reply(created=True, revision=5))
    assert at.open(5) == 4
    assert at.feed(reply(created=True, revision=5)) == []


def test_fragments_count_when_the_last_is_there() -> None:
    at = position(5)
    at.open(9)
    assert at.feed(reply(put(5), put(6, b"/a"), fragment=True)) == []
    assert at.following == 5
    assert revisions(at.feed(reply(put(6, b"/b")))) == [5, 6]
    at.feed(reply(put(7), fragment=True))
    assert at.open(9) == 6  # the stream broke between two fragments: all of it again
    assert revisions(at.feed(reply(put(7)))) == [7]


def test_progress_counts_if_it_is_the_watchs_own() -> None:
    at = position(5)
    assert at.feed(reply(revision=20, watch_id=-1)) == []
    assert at.following == 5  # an answer to a request may run ahead of what is still to come
    assert at.feed(reply(revision=20)) == []
    assert at.following == 21


def test_compaction_is_said_and_its_empty_header_not_believed() -> None:
    at = position(5)
    with pytest.raises(Compacted) as raised:
        at.feed(Watched(cluster=CLUSTER, revision=0, watch_id=0, canceled=True, compact_revision=8))
    assert (raised.value.fields["revision"], raised.value.compacted) == (5, 8)
    assert at.following == 5


@pytest.mark.parametrize(
    ("reason", "then"),
    [
        ("rpc error: code = PermissionDenied desc = etcdserver: permission denied", Next.GIVE_UP),
        ("etcdserver: invalid auth token", Next.LOGIN),
        ("etcdserver: revision of auth store is old", Next.LOGIN),
        ("", Next.ELSEWHERE),
    ],
)
def test_a_refusal_comes_as_created_and_canceled(reason: str, then: Next) -> None:
    with pytest.raises(Failed) as raised:
        position(5).feed(reply(created=True, canceled=True, cancel_reason=reason, watch_id=-1, revision=3))
    assert raised.value.next is then
    assert raised.value.about_rights == (then is not Next.ELSEWHERE)


def test_another_store_has_other_revisions() -> None:
    at = position(5)
    at.feed(reply(put(5)))
    with pytest.raises(Compacted):
        at.feed(reply(put(6), cluster=8))


def test_a_strangers_key_that_is_no_text_is_passed_over() -> None:
    at = Position(5, lambda key: None if key == b"\xff" else key.decode())
    assert at.feed(reply(put(5, b"\xff"))) == []
    assert at.following == 6


@given(st.data())
def test_wherever_the_stream_breaks_each_revision_comes_once(data: st.DataObject) -> None:
    """A history, streamed from wherever the watch asks; cut at any response, split into any fragments."""
    history = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=12))  # how many keys a revision changes
    breaks = data.draw(st.lists(st.integers(0, 4), max_size=8))  # after so many responses; the last stream holds
    last = len(history)
    at = position(1)
    seen: list[tuple[Change, ...]] = []
    for responses in [*breaks, 1_000]:
        opened = at.open(data.draw(st.integers(0, last)))
        try:
            at.feed(reply(created=True, revision=last))
        except Reopen:
            opened = at.open(last)
            at.feed(reply(created=True, revision=last))
        at.feed(reply(revision=last, watch_id=-1))
        sent = [put(r, b"/%d" % n) for r in range(opened, last + 1) for n in range(history[r - 1])]
        for _ in range(responses):
            if not sent:
                break
            cut = data.draw(st.integers(1, len(sent)))
            whole = cut == len(sent) or sent[cut - 1].revision != sent[cut].revision
            seen += at.feed(reply(*sent[:cut], fragment=not whole))
            del sent[:cut]
    assert revisions(seen) == list(range(1, last + 1))
    assert [len(group) for group in seen] == history

"""Our bytes and descriptors against the reference: Google's own compiler, given our `.proto` text."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from tests.contract.samples import Colour, Everything, Leaf, Line, Node, Order, Orders, PlaceOrder, State, everything

from dougong.contract import (
    batch_codec,
    codec,
    describe,
    file_descriptors,
    proto_files,
    proto_text,
    service_pool,
)
from dougong.errors import Error, NotFound

PLACE = describe(Orders).methods[0]


def compiled(files: Mapping[str, str], folder: Path) -> descriptor_pb2.FileDescriptorSet:
    protoc = pytest.importorskip("grpc_tools.protoc")
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    with contextlib.redirect_stderr(io.StringIO()):
        code = protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={folder}/out", "--include_imports", *files])
    assert code == 0
    return descriptor_pb2.FileDescriptorSet.FromString((folder / "out").read_bytes())


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, descriptor_pb2.FileDescriptorSet]:
    folder = tmp_path_factory.mktemp("proto")
    return folder, compiled(proto_files([Orders]), folder)


def protoc(folder: Path, flag: str, kind: str, data: bytes) -> bytes:
    """protoc's own encoder and decoder: the C++ implementation, not the upb that we use."""
    file = "sample/v1/contract.proto"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"--{flag}=sample.v1.{kind}", file]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def test_the_text_says_what_the_descriptors_say(reference: tuple[Path, descriptor_pb2.FileDescriptorSet]) -> None:
    by_name = {file.name: file for file in reference[1].file}
    ours = file_descriptors([Orders])
    assert {file.name for file in ours} == set(by_name)
    for file in ours:
        assert _without_source(by_name[file.name]) == _without_source(file)


def _without_source(file: descriptor_pb2.FileDescriptorProto) -> descriptor_pb2.FileDescriptorProto:
    copy = descriptor_pb2.FileDescriptorProto()
    copy.CopyFrom(file)
    copy.ClearField("source_code_info")
    for message in copy.message_type:  # the text is sorted by number
        fields = sorted(message.field, key=lambda field: field.number)
        del message.field[:]
        message.field.extend(fields)
    return copy


EVERYTHING = Everything(
    one_bool=True,
    one_int=-5,
    one_float=-0.25,
    one_str="größe",
    one_bytes=b"\x00\xff",
    one_enum=Colour.DEEP_BLUE,
    one_message=Leaf(text="leaf", number=0),
    one_tree=Node(name="root", children=[Node(name="child")]),
    maybe_bool=False,
    other_int=0,
    list_int=[1, -1, 2**63 - 1],
    list_enum=[Colour.RED, Colour.DEEP_BLUE],
    list_message=[Leaf(text=""), Leaf(text="b")],
    tuple_int=(0,),
    map_message={"key": Leaf(text="value")},
)


def test_protoc_reads_what_we_write(reference: tuple[Path, descriptor_pb2.FileDescriptorSet]) -> None:
    text = protoc(reference[0], "decode", "Everything", codec(Everything).encode(EVERYTHING)).decode()
    for line in (
        "one_int: -5",
        'one_str: "gr\\303\\266\\303\\237e"',
        "one_enum: COLOUR_DEEP_BLUE",
        "list_int: 9223372036854775807",
        "maybe_bool: false",
        "other_int: 0",
        'map_message {\n  key: "key"\n  value {\n    text: "value"\n',
    ):
        assert line in text
    assert not any(line[:1].isdigit() for line in text.splitlines())  # a bare number is a field protoc does not know


def test_we_read_what_protoc_writes(reference: tuple[Path, descriptor_pb2.FileDescriptorSet]) -> None:
    wire = codec(Everything)
    text = protoc(reference[0], "decode", "Everything", wire.encode(EVERYTHING))
    assert wire.decode(protoc(reference[0], "encode", "Everything", text)) == EVERYTHING


def test_frames_read_the_same(reference: tuple[Path, descriptor_pb2.FileDescriptorSet]) -> None:
    frames = batch_codec(PLACE)
    orders = [PlaceOrder(user_id="u", lines=[Line(sku="kettle", quantity=2)])]
    text = protoc(reference[0], "decode", "OrdersPlaceBatchRequest", frames.encode_request(7, 250, orders, ["00-1"]))
    assert b"batch: 7\ntimeout_ms: 250\n" in text
    assert frames.decode_request(protoc(reference[0], "encode", "OrdersPlaceBatchRequest", text)).requests == orders
    outcomes: list[Order | Error] = [
        Order(order_id="1", state=State.PLACED, lines=[]),
        NotFound("no", code="unknown_sku", sku="x"),
    ]
    text = protoc(reference[0], "decode", "OrdersPlaceBatchReply", frames.encode_reply(7, outcomes, 3))
    assert b'errors {\n  index: 4\n  family: "not_found"\n  code: "unknown_sku"\n' in text
    again = frames.decode_reply(protoc(reference[0], "encode", "OrdersPlaceBatchReply", text))
    assert again.outcomes == [(3, outcomes[0]), (4, outcomes[1])]


@pytest.fixture(scope="module")
def foreign(reference: tuple[Path, descriptor_pb2.FileDescriptorSet]) -> Any:
    """The message class as another program would have it: from the compiled text."""
    pool = descriptor_pool.DescriptorPool()
    for file in reference[1].file:
        pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("sample.v1.Everything"))


@given(message=everything)
def test_both_ways_for_any_message(foreign: Any, message: Everything) -> None:
    theirs = foreign.FromString(codec(Everything).encode(message))
    assert theirs.one_int == message.one_int
    assert theirs.HasField("maybe_int") == (message.maybe_int is not None)
    assert list(theirs.list_str) == message.list_str
    assert dict(theirs.map_bytes) == message.map_bytes
    assert theirs.other_message.text == message.other_message.text
    assert codec(Everything).decode(theirs.SerializeToString()) == message


def test_the_pool_of_reflection() -> None:
    pool = service_pool([Orders])
    service = pool.FindServiceByName("sample.v1.Orders")
    assert [method.name for method in service.methods] == [
        "Place", "PlaceBatch", "Get", "ListAll", "Put", "Upload", "Echo",
    ]  # fmt: skip
    assert service.methods_by_name["PlaceBatch"].client_streaming
    assert pool.FindMessageTypeByName("dougong.v1.ItemError").fields_by_name["retry_after_ms"].number == 6
    assert service_pool([Orders]) is pool


def test_comments_come_from_docstrings() -> None:
    text = proto_text([Orders])
    assert (
        "// Takes orders.\nservice Orders {\n  // Place an order.\n  //\n  // It is accepted once stock is taken.\n"
        in text
    )
    assert "  // HTTP: POST /v1/orders\n  rpc Place(PlaceOrder) returns (Order);\n" in text
    assert "// Where an order stands.\nenum State {\n  STATE_UNSPECIFIED = 0;\n  STATE_PLACED = 1;\n" in text
    assert "  // What.\n  string sku = 1;\n" in text
    assert '  string order_id = 1 [json_name = "order_id"];\n' in text


def test_one_text_is_one_package() -> None:
    class Elsewhere(Orders, package="other.v1"):
        """The same methods in another package: its file has the same messages again."""

    assert set(proto_files([Orders, Elsewhere])) == {
        "dougong/v1/batch.proto",
        "other/v1/contract.proto",
        "sample/v1/contract.proto",
    }
    with pytest.raises(TypeError, match=r"these services make 2 files .*; use proto_files"):
        proto_text([Orders, Elsewhere])

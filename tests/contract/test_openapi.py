"""The document is valid OpenAPI 3.1 and says where each field travels."""

from __future__ import annotations

import json
import types
from typing import Any

import pytest
from tests.contract.samples import Leaf, Orders

from dougong.contract import Message, Service, openapi, rpc

OpenAPIV31SpecValidator = pytest.importorskip("openapi_spec_validator").OpenAPIV31SpecValidator


@pytest.fixture(scope="module")
def document() -> Any:
    made = openapi([Orders], title="Sample", version="1.2.3", servers=["http://127.0.0.1:8000"])
    return json.loads(json.dumps(made))


def test_the_document_is_valid(document: Any) -> None:
    OpenAPIV31SpecValidator(document).validate()


def test_the_validator_can_fail(document: Any) -> None:
    broken = {**document, "paths": {"/x": {"get": {"parameters": [{"name": "a", "in": "nowhere"}]}}}}
    with pytest.raises(Exception, match=r"nowhere|not valid"):
        OpenAPIV31SpecValidator(broken).validate()


def test_only_methods_with_a_rule_are_listed(document: Any) -> None:
    found = {f"{verb} {path}" for path, operations in document["paths"].items() for verb in operations}
    assert found == {"post /v1/orders", "get /v1/orders", "get /v1/orders/{order_id}", "put /v1/orders/{order_id}"}
    assert document["info"] == {"title": "Sample", "version": "1.2.3"}
    assert document["servers"] == [{"url": "http://127.0.0.1:8000"}]
    assert document["tags"] == [{"name": "Orders", "description": "Takes orders."}]


def test_headers_leave_the_body(document: Any) -> None:
    place = document["paths"]["/v1/orders"]["post"]
    (header,) = place["parameters"]
    assert (header["name"], header["in"], header["required"]) == ("Idempotency-Key", "header", False)
    assert header["schema"]["maxLength"] == 128
    schema = place["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["properties"]) == {"user_id", "lines"}
    assert schema["required"] == ["lines"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["lines"]["items"] == {"$ref": "#/components/schemas/Line"}
    assert place["requestBody"]["required"] is True
    assert place["operationId"] == "Orders_Place"
    assert place["summary"] == "Place an order."
    assert place["description"] == "It is accepted once stock is taken."


def test_path_and_query(document: Any) -> None:
    get = document["paths"]["/v1/orders/{order_id}"]["get"]
    assert [(p["name"], p["in"], p["required"]) for p in get["parameters"]] == [
        ("order_id", "path", True),
        ("user_id", "query", False),
    ]
    assert get["parameters"][1]["schema"]["description"] == (
        "Left out: the caller. Callers with the role support may name another."
    )
    assert "requestBody" not in get
    listing = document["paths"]["/v1/orders"]["get"]
    schemas = {parameter["name"]: parameter["schema"] for parameter in listing["parameters"]}
    assert schemas["limit"] == {"type": "integer", "minimum": 1, "maximum": 200, "default": 20}
    assert schemas["ids"]["items"] == {"type": "string"}


def test_bounds_and_docs_are_in_the_schemas(document: Any) -> None:
    line = document["components"]["schemas"]["Line"]
    assert line["description"] == "A SKU and how many of it."
    assert line["properties"]["quantity"] == {"type": "integer", "minimum": 1, "maximum": 10_000}
    assert line["properties"]["sku"]["pattern"] == "^[A-Za-z0-9._-]+$"
    assert document["components"]["schemas"]["State"]["enum"] == ["delivered", "placed"]


def test_answers(document: Any) -> None:
    place, listing = document["paths"]["/v1/orders"]["post"], document["paths"]["/v1/orders"]["get"]
    assert set(place["responses"]) == {"200", "401", "403", "4XX", "5XX"}
    assert place["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/Order")
    assert "application/x-ndjson" in listing["responses"]["200"]["content"]
    problem = document["components"]["responses"]["Problem"]["content"]["application/problem+json"]["schema"]
    assert problem == {"$ref": "#/components/schemas/Problem"}


def test_who_may_call(document: Any) -> None:
    assert document["security"] == [{"bearer": []}]
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    listing = document["paths"]["/v1/orders"]["get"]
    assert listing["security"] == []
    assert "401" not in listing["responses"]
    assert "Needs one of the roles clerk." in document["paths"]["/v1/orders/{order_id}"]["put"]["description"]


def test_two_methods_on_one_path() -> None:
    class Twin(Service):
        """Takes a path that is taken."""

        @rpc(http="POST /v1/orders")
        async def place(self, request: Leaf) -> Leaf:
            raise NotImplementedError

    with pytest.raises(TypeError, match=r"app.v1.Twin.place: POST /v1/orders is taken"):
        openapi([Orders, Twin], title="x", version="1")


def test_a_message_named_problem() -> None:
    problem = types.new_class("Problem", (Message,))
    service = type("S", (Service,), {"get": rpc(http="POST /x")(_returning(problem))})
    with pytest.raises(TypeError, match="a message named Problem would hide"):
        openapi([service], title="x", version="1")


def _returning(kind: type[Message]) -> Any:
    async def get(self: Any, request: Any) -> Any:
        raise NotImplementedError

    get.__annotations__ = {"request": Leaf, "return": kind}
    return get

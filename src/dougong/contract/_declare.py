"""What a user writes: `Message` classes, a `Service` class, and methods marked `@rpc` or `@batched`.

The class is the server, the typed client, the contract and the docs at once. This module only records what was
declared and checks that it can be served; `describe` turns a service class into a `ServiceContract`.
"""

from __future__ import annotations

import collections.abc
import inspect
import re
import types
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, ClassVar, Generic, TypeVar, get_args, get_origin, overload

import msgspec

from dougong.errors import Error

__all__ = [
    "BatchedMethod",
    "BoundBatched",
    "Header",
    "HttpRule",
    "Message",
    "Method",
    "RawBody",
    "Service",
    "ServiceContract",
    "Subject",
    "batched",
    "describe",
    "rpc",
]

S = TypeVar("S")
Req = TypeVar("Req", bound="Message")
Res = TypeVar("Res", bound="Message")
F = TypeVar("F", bound=Callable[..., Any])

_SOURCE = "dougong.source"  # key in msgspec.Meta.extra: where a field comes from when the request arrives over HTTP


class _MessageMeta(msgspec.StructMeta):
    """msgspec applies kw_only only to the class that says so; messages want it in every subclass."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> Any:
        options.setdefault("kw_only", True)
        return super().__new__(mcls, name, bases, namespace, **options)


@typing.dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field,))
class Message(msgspec.Struct, metaclass=_MessageMeta, frozen=True, forbid_unknown_fields=True, gc=False):
    """A value on the wire. Fields are typed; bounds go into `Annotated[int, msgspec.Meta(ge=1)]`.

    Frozen, compared by value, never part of a reference cycle (hence gc=False). Unknown fields in JSON are refused.
    """


def Header(name: str) -> msgspec.Meta:  # noqa: N802 (reads as an annotation: Annotated[str, Header("Idempotency-Key")])
    """Take a field from an HTTP header when the request comes by HTTP. Over gRPC it is an ordinary field."""
    return msgspec.Meta(extra={_SOURCE: f"header:{name}"})


Subject = typing.Annotated[str, msgspec.Meta(extra={_SOURCE: "subject"})]
"""A field that says on whose behalf the call is made.

Empty or left out: filled with the caller's own subject. Another's subject is refused (`Forbidden`) unless the caller
is the system itself or has a role in the method's `on_behalf`.
"""


RawBody = typing.Annotated[bytes, msgspec.Meta(extra={_SOURCE: "raw"})]
"""The body of an HTTP request byte by byte, for those who check a signature over it before they parse it.

A message has at most one, and its other fields come from path and headers. Over gRPC it is an ordinary field.
"""


class HttpRule(msgspec.Struct, frozen=True):
    """`GET /v1/stock/{sku}`, parsed. `params` are the names between braces, in order."""

    verb: str
    path: str
    params: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> HttpRule:
        match = re.fullmatch(r"(GET|POST|PUT|PATCH|DELETE) (/[A-Za-z0-9_\-./{}:]*)", text)
        if match is None:
            raise TypeError(f"http rule {text!r} is not of the form 'GET /v1/things/{{id}}'")
        params = tuple(re.findall(r"\{([a-z_][a-z0-9_]*)\}", match[2]))
        if re.search(r"[{}]", re.sub(r"\{[a-z_][a-z0-9_]*\}", "", match[2])) or len(set(params)) != len(params):
            raise TypeError(f"http rule {text!r}: each parameter is one field's name between braces, once")
        return cls(match[1], match[2], params)


class Method(msgspec.Struct, frozen=True):
    """One method of a service, as declared."""

    service: str
    """Full name of the service, e.g. `shop.v1.Orders`."""
    attribute: str
    """Python name, e.g. `place_order`."""
    name: str
    """Name on the wire, e.g. `PlaceOrder`."""
    request: type[Message]
    response: type[Message]
    doc: str
    client_streaming: bool = False
    server_streaming: bool = False
    max_batch: int = 0
    """0 for a plain method; else the method takes and returns lists and may be called with up to so many at once."""
    http: HttpRule | None = None
    timeout_s: float = 3.0
    idempotent: bool = False
    """A repeat with the same request has no further effect, so clients may retry it on another instance."""
    public: bool = False
    """Needs no token."""
    internal: bool = False
    """Only for callers that belong to the system."""
    roles: tuple[str, ...] = ()
    """The caller needs one of these roles (none listed: any known caller)."""
    on_behalf: tuple[str, ...] = ()
    """Roles that may put another's subject into a `Subject` field."""
    subject_field: str = ""
    """The request's `Subject` field, if it has one."""

    @property
    def path(self) -> str:
        """gRPC path of the plain form: `/shop.v1.Orders/Place`."""
        return f"/{self.service}/{self.name}"

    @property
    def batch_path(self) -> str:
        """gRPC path of the bidirectional stream of batches: `/shop.v1.Orders/PlaceBatch`."""
        return f"/{self.service}/{self.name}Batch"


class ServiceContract(msgspec.Struct, frozen=True):
    """Everything declared by one service class."""

    name: str
    """Full name: package, dot, class name."""
    package: str
    doc: str
    methods: tuple[Method, ...]


class Service:
    """Base of services. `class Orders(Service, package="shop.v1")`; the docstring becomes the contract's text."""

    __contract__: ClassVar[ServiceContract]
    __package__: ClassVar[str] = "app.v1"
    __service_name__: ClassVar[str] = ""

    def __init_subclass__(cls, *, package: str | None = None, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if package is not None:
            cls.__package__ = package
        if name is not None:
            cls.__service_name__ = name
        elif "__service_name__" not in cls.__dict__:
            cls.__service_name__ = f"{cls.__package__}.{cls.__name__}"

    async def start(self) -> None:
        """Called once before the first request; background work belongs to the app's task group, not here."""

    async def stop(self) -> None:
        """Called once after the last request has been answered."""


class _Declared(msgspec.Struct, frozen=True):
    http: HttpRule | None
    timeout_s: float
    idempotent: bool
    public: bool
    internal: bool
    roles: tuple[str, ...]
    on_behalf: tuple[str, ...]
    max_batch: int


def _declared(
    *,
    http: str | None,
    timeout_s: float,
    idempotent: bool | None,
    public: bool,
    internal: bool,
    roles: Sequence[str],
    on_behalf: Sequence[str],
    max_batch: int,
) -> _Declared:
    rule = HttpRule.parse(http) if http is not None else None
    if idempotent is None:
        idempotent = rule is not None and rule.verb in ("GET", "PUT", "DELETE")
    if public and (internal or roles):
        raise TypeError("a method is either public or restricted by internal/roles, not both")
    if timeout_s <= 0:
        raise TypeError(f"timeout_s must be positive, not {timeout_s}")
    return _Declared(rule, timeout_s, idempotent, public, internal, tuple(roles), tuple(on_behalf), max_batch)


def rpc(
    *,
    http: str | None = None,
    timeout_s: float = 3.0,
    idempotent: bool | None = None,
    public: bool = False,
    internal: bool = False,
    roles: Sequence[str] = (),
    on_behalf: Sequence[str] = (),
) -> Callable[[F], F]:
    """Mark a method as callable from outside.

    Shapes: `async def m(self, request: Req) -> Res` (unary), `def m(self, request: Req) -> AsyncIterator[Res]` (server
    stream), `async def m(self, requests: AsyncIterator[Req]) -> Res` (client stream), `def m(self, requests:
    AsyncIterator[Req]) -> AsyncIterator[Res]` (both). `idempotent` unset: true for GET, PUT and DELETE.
    """
    declared = _declared(
        http=http,
        timeout_s=timeout_s,
        idempotent=idempotent,
        public=public,
        internal=internal,
        roles=roles,
        on_behalf=on_behalf,
        max_batch=0,
    )

    def mark(function: F) -> F:
        function.__dougong_rpc__ = declared  # type: ignore[attr-defined]
        return function

    return mark


class BoundBatched(Generic[Req, Res]):
    """A batched method of one service object or client: call it with one request, or `many` with a list."""

    __slots__ = ("_many",)

    def __init__(self, many: Callable[[Sequence[Req]], Awaitable[Sequence[Res | Error]]]) -> None:
        self._many = many

    async def __call__(self, request: Req) -> Res:
        """One request in, its reply out, or its error raised."""
        (outcome,) = await self._many((request,))
        if isinstance(outcome, Error):
            raise outcome
        return outcome

    async def many(self, requests: Sequence[Req]) -> Sequence[Res | Error]:
        """One outcome per request, in the same order; an item's error is a value, not an exception."""
        return await self._many(requests)


class BatchedMethod(Generic[S, Req, Res]):
    """Descriptor behind `@batched`: the author writes lists, callers pass one or many."""

    def __init__(
        self, function: Callable[[S, Sequence[Req]], Awaitable[Sequence[Res | Error]]], declared: _Declared
    ) -> None:
        self.function = function
        self.declared = declared
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", "batched")

    @overload
    def __get__(self, instance: None, owner: type) -> BatchedMethod[S, Req, Res]: ...
    @overload
    def __get__(self, instance: S, owner: type) -> BoundBatched[Req, Res]: ...
    def __get__(self, instance: S | None, owner: type) -> BatchedMethod[S, Req, Res] | BoundBatched[Req, Res]:
        if instance is None:
            return self
        return BoundBatched(types.MethodType(self.function, instance))


def batched(
    *,
    max_batch: int = 1000,
    http: str | None = None,
    timeout_s: float = 3.0,
    idempotent: bool | None = None,
    public: bool = False,
    internal: bool = False,
    roles: Sequence[str] = (),
    on_behalf: Sequence[str] = (),
) -> Callable[
    [Callable[[S, Sequence[Req]], Awaitable[Sequence[Res | Error]]]],
    BatchedMethod[S, Req, Res],
]:
    """Mark a method that works on many requests at once: `async def m(self, requests: Sequence[Req]) -> Sequence[Res |
    Error]`, one outcome per request in the same order.

    On the wire it is both a unary method (`Place`) and a bidirectional stream of batches (`PlaceBatch`). A client's
    single calls that arrive while a batch is in flight travel together in the next one.
    """
    if max_batch < 1:
        raise TypeError(f"max_batch must be at least 1, not {max_batch}")
    declared = _declared(
        http=http,
        timeout_s=timeout_s,
        idempotent=idempotent,
        public=public,
        internal=internal,
        roles=roles,
        on_behalf=on_behalf,
        max_batch=max_batch,
    )

    def mark(
        function: Callable[[S, Sequence[Req]], Awaitable[Sequence[Res | Error]]],
    ) -> BatchedMethod[S, Req, Res]:
        return BatchedMethod(function, declared)

    return mark


def source_of(annotation: Any) -> str:
    """Where a field is taken from: `subject`, `header:NAME`, `raw`, or empty for the ordinary places."""
    if get_origin(annotation) is typing.Annotated:
        for part in annotation.__metadata__:
            if isinstance(part, msgspec.Meta) and part.extra and _SOURCE in part.extra:
                return str(part.extra[_SOURCE])
        return source_of(get_args(annotation)[0])
    if get_origin(annotation) in (typing.Union, types.UnionType):
        return next(filter(None, map(source_of, get_args(annotation))), "")
    return ""


def field_sources(message: type[Message]) -> dict[str, str]:
    """The fields of a message that do not come from path, query or body: name → source."""
    hints = typing.get_type_hints(message, include_extras=True)
    return {name: source for name in message.__struct_fields__ if (source := source_of(hints[name]))}


def describe(service: type[Service]) -> ServiceContract:
    """The contract of a service class; computed once per class.

    Raises TypeError naming class, method and remedy when a declaration cannot be served.
    """
    known = service.__dict__.get("__contract__")
    if known is not None:
        return typing.cast(ServiceContract, known)
    methods: dict[str, Method] = {}
    for owner in reversed(service.__mro__):
        for attribute, value in owner.__dict__.items():
            if isinstance(value, BatchedMethod):
                methods[attribute] = _method(service, attribute, value.function, value.declared)
            elif (declared := getattr(value, "__dougong_rpc__", None)) is not None:
                methods[attribute] = _method(service, attribute, value, declared)
    _refuse_same_names(service, methods.values())
    doc = inspect.cleandoc(service.__doc__ or "")
    contract = ServiceContract(service.__service_name__, service.__package__, doc, tuple(methods.values()))
    service.__contract__ = contract
    return contract


def _refuse_same_names(service: type[Service], methods: Iterable[Method]) -> None:
    seen: dict[str, str] = {}
    for method in methods:
        for name in (method.name, f"{method.name}Batch")[: 2 if method.max_batch else 1]:
            if (other := seen.setdefault(name, method.attribute)) != method.attribute:
                raise TypeError(
                    f"{service.__service_name__}: {other} and {method.attribute} are both {name} on the wire; rename"
                )


def _hints(where: str, function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(
            f"{where}: the annotation names {error.name!r}, which is not known in {function.__module__}; define or "
            "import it at module level, not under TYPE_CHECKING"
        ) from error


def _method(service: type[Service], attribute: str, function: Callable[..., Any], declared: _Declared) -> Method:
    where = f"{service.__service_name__}.{attribute}"
    hints = _hints(where, function)
    parameters = [p for p in inspect.signature(function).parameters if p != "self"]
    if len(parameters) != 1 or parameters[0] not in hints or "return" not in hints:
        raise TypeError(f"{where}: a method takes exactly one annotated parameter beside self and annotates its return")
    request, response = hints[parameters[0]], hints["return"]
    client_streaming = server_streaming = False
    if declared.max_batch:
        request, response = _item(where, request), _item(where, response)
    else:
        client_streaming, request = _streamed(request)
        server_streaming, response = _streamed(response)
    for role, kind in (("request", request), ("response", response)):
        if not (isinstance(kind, type) and issubclass(kind, Message)):
            raise TypeError(f"{where}: the {role} must be a Message, not {kind!r}")
    sources = field_sources(request)
    rule = declared.http
    if rule is not None:
        if client_streaming:
            raise TypeError(f"{where}: a client stream has no HTTP form; drop http=")
        missing = [name for name in rule.params if name not in request.__struct_fields__]
        if missing:
            raise TypeError(
                f"{where}: path parameter {missing[0]!r} of {rule.path!r} is no field of {request.__name__}"
            )
    return Method(
        service=service.__service_name__,
        attribute=attribute,
        name="".join(part.capitalize() for part in attribute.strip("_").split("_")),
        request=request,
        response=response,
        doc=inspect.cleandoc(function.__doc__ or ""),
        client_streaming=client_streaming,
        server_streaming=server_streaming,
        max_batch=declared.max_batch,
        http=rule,
        timeout_s=declared.timeout_s,
        idempotent=declared.idempotent,
        public=declared.public,
        internal=declared.internal,
        roles=declared.roles,
        on_behalf=declared.on_behalf,
        subject_field=next((name for name, source in sources.items() if source == "subject"), ""),
    )


def _streamed(annotation: Any) -> tuple[bool, Any]:
    if get_origin(annotation) in (collections.abc.AsyncIterator, collections.abc.AsyncIterable, AsyncIterator):
        return True, get_args(annotation)[0]
    return False, annotation


def _item(where: str, annotation: Any) -> Any:
    """`Sequence[Req]` → Req; `Sequence[Res | Error]` → Res."""
    if get_origin(annotation) not in (collections.abc.Sequence, list):
        raise TypeError(f"{where}: a batched method takes Sequence[Request] and returns Sequence[Response | Error]")
    (item,) = get_args(annotation)
    if get_origin(item) in (typing.Union, types.UnionType):
        kinds = [k for k in get_args(item) if not (isinstance(k, type) and issubclass(k, Error))]
        if len(kinds) != 1:
            raise TypeError(f"{where}: each outcome is one Message type or an Error, not {item!r}")
        return kinds[0]
    return item

"""`@job`: a function that may be called later, elsewhere, and again.

The declaration is all there is: the function's own annotations say what its arguments are, so that a wrong call fails
where it is made, with the place, and not at night in a worker.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, ParamSpec, TypeVar, cast, get_type_hints, overload

import msgspec

from dougong.errors import Invalid
from dougong.jobs._protocol import PRIORITY_MAX, NewJob
from dougong.jobs.retrying import Backoff
from dougong.telemetry import traceparent

__all__ = ["NAME_CHARS_MAX", "PAYLOAD_BYTES_MAX", "Job", "job", "needs"]

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

PAYLOAD_BYTES_MAX = 64 * 1024
"""Arguments say what to work on; they do not carry it."""
NAME_CHARS_MAX = 100
_MARK_CHARS_MAX = 100
_FIELD = re.compile(r"^Object (?:contains unknown|missing required) field `([^`]*)`", re.DOTALL)
_encode = msgspec.json.Encoder().encode


class _Need:
    """Stands as a parameter's default until a worker puts in what was asked for."""

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"needs({self.kind.__name__})"


def needs(kind: type[T]) -> T:
    """A parameter that is no argument: the worker finds it by type, as an app's constructors get theirs.

    >>> from dougong.store import Store
    >>> @job
    ... async def forget(customer: int, store: Store = needs(Store)) -> None: ...
    >>> forget.call(7).payload
    b'{"customer":7}'
    """
    return cast(T, _Need(kind))


class Job(Generic[P, R_co]):
    """A declared job. Calling it runs the function here and now; `call` makes what can be enqueued."""

    def __init__(
        self,
        function: Callable[P, R_co],
        *,
        name: str | None = None,
        queue: str = "default",
        priority: int = 5,
        retries: int = 5,
        backoff: Backoff | None = None,
        timeout_s: float | None = 300.0,
        heartbeat_s: float | None = None,
        unique: bool | Sequence[str] = False,
        order: str | None = None,
        rate: float | None = None,
        process: bool = False,
    ) -> None:
        self.function = function
        self.name = name if name is not None else function.__name__
        self.queue = queue
        self.priority = priority
        self.retries = retries
        """How often it comes again after an attempt that failed."""
        self.backoff = backoff if backoff is not None else Backoff()
        self.timeout_s = timeout_s
        self.heartbeat_s = heartbeat_s
        """When set, an attempt that says nothing for so long (`JobRun.heartbeat`, `progress`) is taken for stuck."""
        self.order = order
        self.rate = rate
        self.kind: Literal["async", "thread", "process"] = (
            "process" if process else "async" if inspect.iscoroutinefunction(function) else "thread"
        )
        self.__doc__ = function.__doc__
        self.__name__ = self.name
        self.__module__ = function.__module__
        self.needs: dict[str, type] = {}
        """Parameters that the worker fills in, by type."""
        self._arguments = self._read_signature()
        self._names = tuple(field.name for field in msgspec.structs.fields(self._arguments))
        self._decoder = msgspec.json.Decoder(self._arguments)
        self._unique = self._names if unique is True else tuple(unique) if unique else ()
        self._check()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<job {self.name}>"

    def call(self, *args: P.args, **kwargs: P.kwargs) -> NewJob:
        """This job with arguments, to be enqueued. Raises `Invalid` (`wrong_arguments`, `payload_too_large`)."""
        given = dict(zip(self._names, args, strict=False))
        if len(args) > len(self._names) or (kwargs and not given.keys().isdisjoint(kwargs)):
            raise Invalid(
                f"job {self.name} takes ({', '.join(self._names)}), got {len(args)} by position and "
                f"{', '.join(kwargs) or 'none'} by name",
                code="wrong_arguments",
                job=self.name,
            )
        given |= kwargs
        try:
            payload = _encode(given)
        except (TypeError, ValueError, OverflowError) as error:
            raise Invalid(
                f"job {self.name}: an argument cannot be written as JSON: {error}",
                code="wrong_arguments",
                job=self.name,
            ) from None
        return self.call_with(payload)

    @property
    def argument_names(self) -> tuple[str, ...]:
        """In their order."""
        return self._names

    def call_with(self, payload: bytes) -> NewJob:
        """The same with arguments that are JSON already, e.g. a request's body."""
        decoded = self._decode(payload)
        unique = _mark([getattr(decoded, name) for name in self._unique]) if self._unique else None
        order = _mark([getattr(decoded, self.order)]) if self.order is not None else None
        return NewJob(
            job=self.name,
            payload=payload,
            queue=self.queue,
            priority=self.priority,
            unique=unique,
            order=order,
            rate=self.rate,
            trace=traceparent(),
        )

    def arguments(self, payload: bytes) -> dict[str, object]:
        """Arguments of a payload, by name. Raises `Invalid` as `call` does."""
        return msgspec.structs.asdict(self._decode(payload))

    def _decode(self, payload: bytes) -> msgspec.Struct:
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise Invalid(
                f"the arguments of job {self.name} are {len(payload):,} bytes as JSON; {PAYLOAD_BYTES_MAX:,} at most: "
                f"store them and pass their id",
                code="payload_too_large",
                job=self.name,
            )
        try:
            return self._decoder.decode(payload)
        except msgspec.DecodeError as error:
            raise _wrong(self.name, str(error)) from None

    def _read_signature(self) -> type[msgspec.Struct]:
        """A Struct of the parameters that are arguments."""
        hints = get_type_hints(self.function, include_extras=True)
        fields: list[Any] = []
        for parameter in inspect.signature(self.function).parameters.values():
            where = f"parameter {parameter.name!r} of job {self.name}"
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise TypeError(f"{where} has no name of its own; name each argument")
            if isinstance(parameter.default, _Need):
                self.needs[parameter.name] = parameter.default.kind
                continue
            if parameter.name not in hints:
                raise TypeError(f"{where} has no type; annotate it")
            if parameter.default is parameter.empty:
                fields.append((parameter.name, hints[parameter.name]))
            else:
                fields.append((parameter.name, hints[parameter.name], parameter.default))
        try:
            made = msgspec.defstruct(
                f"{self.name}_arguments", fields, kw_only=True, frozen=True, forbid_unknown_fields=True
            )
            msgspec.json.Decoder(made)
        except TypeError as error:
            raise TypeError(f"job {self.name} has an argument that JSON cannot carry: {error}") from None
        return made

    def _check(self) -> None:
        if not 0 < len(self.name) <= NAME_CHARS_MAX or not self.name.isprintable():
            raise TypeError(f"job name {self.name!r} must have 1 to {NAME_CHARS_MAX} printable characters")
        if not 0 <= self.priority <= PRIORITY_MAX:
            raise TypeError(f"priority {self.priority} of job {self.name} must be 0 (first) to {PRIORITY_MAX} (last)")
        if self.retries < 0:
            raise TypeError(f"retries {self.retries} of job {self.name} must be 0 or more")
        for what, value in (("timeout_s", self.timeout_s), ("heartbeat_s", self.heartbeat_s), ("rate", self.rate)):
            if value is not None and not 0 < value < 1e9:
                raise TypeError(f"{what} {value} of job {self.name} must be greater than 0")
        for name in (*self._unique, *((self.order,) if self.order is not None else ())):
            if name not in self._names:
                raise TypeError(f"job {self.name} has no argument {name!r}; it has {', '.join(self._names) or 'none'}")


def _wrong(job: str, said: str) -> Invalid:
    """What is wrong with which argument."""
    reason, _, place = said.partition(" - at `$")
    named = _FIELD.search(reason)
    path = place.rstrip("`")
    field = (f"{path}.{named[1]}" if named is not None else path).lstrip(".")
    error = Invalid(f"job {job}: {said}", code="wrong_arguments", job=job)
    if field:
        error.fields |= {"field": field, "reason": reason}
    return error


def _mark(values: Sequence[object]) -> str:
    """Values as a text that can stand in an index."""
    text = _encode(values).decode()
    return text if len(text) <= _MARK_CHARS_MAX else hashlib.sha256(text.encode()).hexdigest()


@overload
def job(function: Callable[P, R], /) -> Job[P, R]: ...


@overload
def job(
    *,
    name: str | None = None,
    queue: str = "default",
    priority: int = 5,
    retries: int = 5,
    backoff: Backoff | None = None,
    timeout_s: float | None = 300.0,
    heartbeat_s: float | None = None,
    unique: bool | Sequence[str] = False,
    order: str | None = None,
    rate: float | None = None,
    process: bool = False,
) -> Callable[[Callable[P, R]], Job[P, R]]: ...


def job(function: Callable[P, R] | None = None, /, **options: Any) -> Job[P, R] | Callable[[Callable[P, R]], Job[P, R]]:
    """Declare a job: `async def` runs on the loop, `def` in a thread, or in a process of its own with `process=True`.

    - `queue`, `priority`: where it waits; 0 is taken first, 9 last.
    - `retries`, `backoff`: how often and when it comes again after it raised; then it is a dead letter.
    - `timeout_s`: an attempt may take so long; None is for ever.
    - `unique`: at most one unfinished job with the same arguments (True), or the same values of those named.
    - `order`: jobs with the same value of that argument run one after the other.
    - `rate`: so many starts in a second, over all workers.
    """
    if function is not None:
        return Job(function)
    return lambda function: Job(function, **options)

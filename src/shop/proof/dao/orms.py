"""The ORMs: a session for each read, as an endpoint has one, on SQLAlchemy's own pool."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from advanced_alchemy.base import DefaultBase
from advanced_alchemy.filters import LimitOffset, OrderBy
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession as SQLModelSession

__all__ = ["AdvancedAlchemy", "KeptSession", "Session", "SqlModel", "engine_for"]


def engine_for(url: str) -> AsyncEngine:
    """SQLAlchemy's engine for a store's URL."""
    scheme, _, rest = url.partition(":")
    return create_async_engine({"sqlite": "sqlite+aiosqlite:", "mysql": "mysql+asyncmy:"}[scheme] + rest)


class _Base(DeclarativeBase):
    pass


class _OrmUser(_Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    email: Mapped[str]
    name: Mapped[str]
    joined: Mapped[int] = mapped_column(sa.BigInteger)
    version: Mapped[int]


class _ModelUser(SQLModel, table=True):
    __tablename__ = "users"  # pyright: ignore[reportAssignmentType] (as its documentation has it)

    id: int = Field(sa_type=sa.BigInteger, primary_key=True)
    email: str
    name: str
    joined: int = Field(sa_type=sa.BigInteger)
    version: int


class _AdvancedUser(DefaultBase):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    email: Mapped[str]
    name: Mapped[str]
    joined: Mapped[int] = mapped_column(sa.BigInteger)
    version: Mapped[int]


class _Repository(SQLAlchemyAsyncRepository[_AdvancedUser]):
    model_type = _AdvancedUser


class Session:
    """SQLAlchemy's ORM: `AsyncSession.get`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def get(self, keys: Sequence[int]) -> str:
        user = None
        for key in keys:
            async with AsyncSession(self._engine) as session:
                user = await session.get(_OrmUser, key)
        return user.email if user is not None else ""

    async def page(self, rows: int) -> str:
        async with AsyncSession(self._engine) as session:
            found = await session.execute(sa.select(_OrmUser).order_by(_OrmUser.id).limit(rows))
            return found.scalars().all()[-1].email


class KeptSession:
    """The same with one session and one transaction for all reads, emptied after each: the least it can cost."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def get(self, keys: Sequence[int]) -> str:
        user = None
        async with AsyncSession(self._engine) as session:
            for key in keys:
                session.expunge_all()
                user = await session.get(_OrmUser, key)
        return user.email if user is not None else ""

    async def page(self, rows: int) -> str:
        return await Session(self._engine).page(rows)


class SqlModel:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def get(self, keys: Sequence[int]) -> str:
        user = None
        for key in keys:
            async with SQLModelSession(self._engine) as session:
                user = await session.get(_ModelUser, key)
        return user.email if user is not None else ""

    async def page(self, rows: int) -> str:
        async with SQLModelSession(self._engine) as session:
            return (await session.exec(select(_ModelUser).order_by(col(_ModelUser.id)).limit(rows))).all()[-1].email


class AdvancedAlchemy:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def get(self, keys: Sequence[int]) -> str:
        user = None
        for key in keys:
            async with AsyncSession(self._engine) as session:
                user = await _Repository(session=session).get(key)
        return user.email if user is not None else ""

    async def page(self, rows: int) -> str:
        async with AsyncSession(self._engine) as session:
            found = await _Repository(session=session).get_many(OrderBy("id", "asc"), LimitOffset(rows, 0))
            return found[-1].email

"""`CREATE TABLE` for entities, written by SQLAlchemy Core: it knows the types of every engine."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dougong.dao._columns import SqlType
from dougong.dao._entity import Entity
from dougong.dao._shape import shape_of
from dougong.dao._statements import DIALECTS
from dougong.store import Migration

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["create_table_sql", "create_tables"]

# Each server reads its own comment. Elsewhere blanks at the end of text do not count: "a" would equal "a ".
_BY_CODE_POINTS = " /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */"
_VARCHAR_MAX = 4000  # characters; longer ones are MEDIUMTEXT on MySQL, where a row has room for 65,535 bytes in all


def create_table_sql(entity: type[Entity], dialect: str = "sqlite") -> str:
    """`CREATE TABLE ...` for an entity: the draft of its first migration."""
    from sqlalchemy.schema import CreateTable

    if dialect not in DIALECTS:
        raise TypeError(f"no SQL dialect {dialect!r}; there are {', '.join(DIALECTS)}")
    made: sa.Dialect = import_module(f"sqlalchemy.dialects.{dialect}").dialect()  # one, not all three
    sql = str(CreateTable(_table(entity)).compile(dialect=made)).strip()
    return sql + _BY_CODE_POINTS if dialect == "mysql" else sql


def create_tables(number: int, name: str, *entities: type[Entity]) -> Migration:
    """The migration that makes the entities' tables, on any engine.

    It says what the classes say now. Before a class with a table in use changes, write down what this gave
    (`create_table_sql`) and add a migration with the `ALTER TABLE`; the store refuses a step that was changed later.
    """
    texts = {
        dialect: ";\n\n".join(create_table_sql(entity, dialect) for entity in entities)
        for dialect in ("sqlite", "mysql", "postgresql")
    }
    return Migration(number, name, "", texts)


def _table(entity: type[Entity]) -> sa.Table:
    import sqlalchemy as sa

    shape, declared = shape_of(entity), entity.__declared__
    return sa.Table(
        declared.table,
        sa.MetaData(),
        *(
            sa.Column(
                each.name,
                _type(each.sql),
                primary_key=each is shape.key,
                nullable=each.nullable,
                autoincrement=False,
            )
            for each in shape.columns
        ),
        *(sa.UniqueConstraint(*names, name=index) for index, names in declared.unique.items()),
        mysql_engine="InnoDB",
    )


def _type(sql: SqlType) -> sa.types.TypeEngine[Any]:
    import sqlalchemy as sa
    from sqlalchemy.dialects import mysql

    if sql.kind == "text":
        # What the database sorts by code points, as Python does: pages and merges rely on it.
        if 0 < sql.characters <= _VARCHAR_MAX:
            return sa.String(sql.characters).with_variant(sa.String(sql.characters, collation="C"), "postgresql")
        plain: sa.types.TypeEngine[Any] = sa.Text()
        return plain.with_variant(mysql.MEDIUMTEXT(), "mysql").with_variant(sa.Text(collation="C"), "postgresql")
    if sql.kind == "bytes":
        return sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql")
    if sql.kind == "whole":
        return sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Double() if sql.kind == "real" else sa.SmallInteger()

"""Databases: one `Store` each, units of work, group commit."""

from dougong.store._protocol import Migration, Row, Store, Tx, Unit, Value

__all__ = ["Migration", "Row", "Store", "Tx", "Unit", "Value"]

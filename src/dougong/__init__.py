"""Dougong turns a Python CRUD service into a distributed system that holds under load, and proves it."""

"""Dougong turns a Python CRUD service into a distributed system that holds under load, and proves it.

Everything is imported from its room: `from dougong.app import App`, `from dougong.contract import Message, rpc`,
`from dougong.tcc import Participant`. A program pays only for the rooms it uses.
"""

"""Durable machines: states, events, guards, actions and deadlines, declared as one table in one class.

For things that live longer than a request: an order, a payment, a delivery. The one idea: **a transition is a
compare-and-set on the row that exists anyway, and its history is the outbox.** The user's own table carries the
machine's columns; whoever fires an event names nothing but the instance; one UPDATE moves it, and one row of history,
written in the same local transaction, is both the audit trail and the feed others follow.

    class Orders(Machine[int], table="orders", version=1):
        states = (
            State("placed", initial=True, deadline=Deadline(1800, "expire")),
            State("paid"),
            State("shipped", final=True),
            State("expired", final=True),
        )
        rules = (
            Rule("placed", "pay", "paid"),
            Rule("placed", "expire", "expired"),
            Rule("paid", "ship", "shipped"),
        )

    orders = Orders(store)
    await orders.start()                                        # says which columns are missing, if any
    (outcome,) = await orders.fire_many([Fire(7, "pay", id="evt_1")])
    page = await orders.history.after(0)

A deadline is a row in an index, fired as an ordinary event: it survives restarts, and against a payment it races on one
compare-and-set. An event with an id happens once, however often it is sent. Everything takes batches.

It does not: run a workflow's code between transitions (actions write rows, and no more), call other services, or guess
what a row of an unknown definition means.
"""

from dougong.statemachine._protocol import (
    Deadline,
    Fire,
    IllegalTransition,
    Instance,
    Key,
    Outcome,
    Rule,
    State,
    Transition,
    UnknownInstance,
)
from dougong.statemachine.history import History, Page
from dougong.statemachine.machine import Machine
from dougong.statemachine.timekeeper import TimekeeperSettings

__all__ = [
    "Deadline",
    "Fire",
    "History",
    "IllegalTransition",
    "Instance",
    "Key",
    "Machine",
    "Outcome",
    "Page",
    "Rule",
    "State",
    "TimekeeperSettings",
    "Transition",
    "UnknownInstance",
]

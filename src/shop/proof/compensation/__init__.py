"""What each trigger of the coordinator costs in delay, and what it survives, on real processes.

A shelf (the one of `shop.proof.tcc`) and tills: coordinators in processes of their own that hold transactions, confirm
them when they are told to, and die when it hurts. `till` is that process, `python -m shop.proof.compensation`; `tills`
handles it from outside; `watch` looks into the shelf's own database, since nobody's word counts here; `faults` inflicts
them, and `claim` judges.
"""

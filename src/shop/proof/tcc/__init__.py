"""What transactions cost: a shelf behind a coordinator, measured beside what people do without one.

`shelf` is the participant, `load` runs a closed loop of transactions against it, `row_lock` is the baseline: a locking
transaction per order. Each runs in a process of its own, `python -m shop.proof.tcc`; `stand` starts them, and `claim`
judges. The claim of `shop.proof.compensation` stands on the same shelf.
"""

"""What a long-lived connection costs: ours by the million, and what people usually hold them with.

`servers` has them all, each answering the same calls; `python -m shop.proof.connections` runs one in as many processes
as asked; `memory` reads what they and the kernel take; `comparing` calls all of them in turns; `claim` judges.
"""

"""Proof about ids: never twice, whatever happens to clocks and processes, and two million a second in one of them."""

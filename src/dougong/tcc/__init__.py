"""Try, confirm, cancel."""

from dougong.tcc._protocol import BranchState, Hold, Participant, Refusal, TransactionState

__all__ = ["BranchState", "Hold", "Participant", "Refusal", "TransactionState"]

"""The reference platform."""

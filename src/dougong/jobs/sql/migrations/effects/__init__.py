"""Beside what jobs change: which of them did."""

"""Torture: real processes are killed, stopped, cut off and starved under load, round after round.

What was acknowledged must be there once, whatever happened; that is proved after each round. Run it
with `make torture ROUNDS=n`; docs/guarantees.md says what it does, and what came of it.
"""

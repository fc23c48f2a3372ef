"""Commands, as typed."""

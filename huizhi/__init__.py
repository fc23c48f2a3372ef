"""The command line, which puts the parts together."""

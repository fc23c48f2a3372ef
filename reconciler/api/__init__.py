"""The reconciler's API: interface section 4, over the same functions that the command line uses."""

from reconciler.api.app import create_app

__all__ = ["create_app"]

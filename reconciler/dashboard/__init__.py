"""The dashboard: pages for finance and for who is on call, over the same functions as the API."""

from reconciler.dashboard.front import Front, lifespan

__all__ = ["Front", "lifespan"]

"""Huizhi's client for applications: register what was sent, and ask what became of it.

Imports nothing of the service. `Huizhi` and `AsyncHuizhi` make calls; `Registrar` and `AsyncRegistrar`
register in the background. docs/client.md has examples.
"""

from huizhi.client.clients import AsyncHuizhi, Huizhi
from huizhi.client.errors import (
    Closed,
    Full,
    Garbled,
    HuizhiError,
    NotTaken,
    Refused,
    Unavailable,
)
from huizhi.client.registrars import AsyncRegistrar, Registrar
from huizhi.client.shapes import (
    Evidence,
    Message,
    Outgoing,
    Registered,
    Rejected,
    Report,
    SendResult,
    Sent,
    Totals,
    Unregistered,
)

__all__ = [
    "AsyncHuizhi",
    "AsyncRegistrar",
    "Closed",
    "Evidence",
    "Full",
    "Garbled",
    "Huizhi",
    "HuizhiError",
    "Message",
    "NotTaken",
    "Outgoing",
    "Refused",
    "Registered",
    "Registrar",
    "Rejected",
    "Report",
    "SendResult",
    "Sent",
    "Totals",
    "Unavailable",
    "Unregistered",
]

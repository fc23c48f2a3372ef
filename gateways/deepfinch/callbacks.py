"""deepfinch's pushes: there are none."""

from typing import NoReturn

from gateways.errors import Malformed
from gateways.gateway import Account, Acknowledgement, Callback

_ACKNOWLEDGEMENT = Acknowledgement(b"ok", "text/plain; charset=utf-8")


def parse_callback(_callback: Callback, _account: Account) -> NoReturn:
    """Raise `Malformed`: whoever pushed this, its format is published nowhere."""
    raise Malformed("this vendor pushes nothing in any documented way")


def acknowledge(_callback: Callback) -> Acknowledgement:
    """Return what a push would be answered with."""
    return _ACKNOWLEDGEMENT

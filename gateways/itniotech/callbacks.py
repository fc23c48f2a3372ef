"""itniotech's pushes: delivery reports with what they cost, and messages from handsets."""

from gateways.errors import Malformed
from gateways.events import Event, Parsed
from gateways.gateway import Account, Acknowledgement, Callback
from gateways.itniotech import documents
from gateways.itniotech.client import Options

_ACKNOWLEDGEMENT = Acknowledgement(b'{"status":"0"}', "application/json")


def parse_callback(callback: Callback, account: Account) -> Parsed:
    """Return the one event of a push. Raises `Malformed`; pure."""
    options: Options = account.options
    found = documents.read(callback.body)
    problems: list[str] = []
    event: Event
    # Both go to addresses that vendor staff enter: which one came is seen by its fields alone.
    if "status" in found:
        event = documents.pushed_report(found, problems, timed=options.push_timestamp == "reported")
    elif "content" in found:
        event = documents.pushed_inbound(found, account.zone, problems)
    else:
        raise Malformed("neither status nor content is there")
    return Parsed(events=(event,), rows=1, problems=tuple(problems))


def acknowledge(_callback: Callback) -> Acknowledgement:
    """Return what every push is answered with."""
    return _ACKNOWLEDGEMENT

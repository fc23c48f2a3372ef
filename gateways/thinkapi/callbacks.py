"""ThinkAPI's pushes: delivery reports, and reviews of signs and templates."""

from gateways import wire
from gateways.errors import Malformed
from gateways.events import Event, Parsed, ReviewKind
from gateways.gateway import Account, Acknowledgement, Callback
from gateways.thinkapi import documents

_ACKNOWLEDGEMENT = Acknowledgement(b'{"code":0}', "application/json")


def parse_callback(callback: Callback, account: Account) -> Parsed:
    """Return the one event of a push. Raises `Malformed`; pure."""
    event_name = callback.headers.get("x-thinkphp-event", "").strip()
    if event_name and event_name.lower() != "sms":
        raise Malformed("X-ThinkPHP-Event is not sms")
    push = wire.read_json(callback.body, documents.PUSH)
    event: Event
    match push.action:
        case "report":
            event = documents.report(push.sms, "sms", account.zone)
        case "sign":
            event = documents.review(push.sign, "sign", ReviewKind.SIGN, account.zone)
        case "template":
            # The page puts a template under `sign`.
            payload = push.sign if push.template in documents.ABSENT else push.template
            event = documents.review(payload, "template", ReviewKind.TEMPLATE, account.zone)
        case _:
            raise Malformed("action is unknown")
    return Parsed(events=(event,), rows=1)


def acknowledge(_callback: Callback) -> Acknowledgement:
    """Return what every push is answered with."""
    return _ACKNOWLEDGEMENT

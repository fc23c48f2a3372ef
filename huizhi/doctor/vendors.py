"""The examination of vendors: is each reached, and does it take our credentials.

Asked is only what changes nothing and costs nothing: the balance; else for something that the vendor
knows by an id. A vendor without such a call is reached and no more.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from gateways.errors import GatewayError, Indeterminate, Refused, Unavailable
from gateways.events import ReviewKind
from gateways.gateway import Client, Reply
from gateways.http import Transport, open_client
from huizhi.doctor.finding import Finding, failed, not_checked, ok, warning
from huizhi.doctor.store import Known
from runtime.settings import AccountSettings

_OFF_SECONDS, _FAR_OFF_SECONDS = 10.0, 300.0
# What says "not you" whatever was asked for.
_NOT_YOU = ("401", "403")
# No vendor is known to have given it.
_NO_ID = "1"
_LOOK_AT_CREDENTIALS = (
    "look at the account's credentials, and whether the vendor lets this machine's address in"
)
_LOOK_AT_NETWORK = "look at base_url, the network and the firewall; or the vendor is down"


async def examine_vendors(
    accounts: Mapping[str, AccountSettings], known: Mapping[str, Known]
) -> list[Finding]:
    """Examine all of `accounts` at once; `known` is what their vendors can be asked about."""
    found = await asyncio.gather(
        *(_examine(name, each, known.get(name)) for name, each in accounts.items())
    )
    return [finding for findings in found for finding in findings]


async def _examine(name: str, settings: AccountSettings, known: Known | None) -> list[Finding]:
    dates: list[tuple[datetime, str]] = []

    async def note(response: httpx.Response) -> None:
        dates.append((datetime.now(UTC), response.headers.get("date", "")))

    async with open_client() as http:
        http.event_hooks = {"response": [note]}
        transport = Transport(http, settings.requests_per_second, attempts=2, timeout_seconds=20)
        client = settings.gateway.client(settings.account, transport)
        supports = settings.gateway.supports
        if "query_balance" in supports:
            found = await _by_balance(name, settings, client)
        elif "query_review" in supports:
            found = await _by_id(name, settings, client, known)
        else:
            found = await _by_reaching(name, settings, http)
    return [*found, *_clock(name, dates)]


async def _by_balance(name: str, settings: AccountSettings, client: Client) -> list[Finding]:
    try:
        parsed = settings.gateway.parse_reply(await client.query_balance(), settings.account)
    except Refused as error:
        return [
            failed("vendor", f"it does not answer us: {error}", _LOOK_AT_CREDENTIALS, account=name)
        ]
    except GatewayError as error:
        return [_unanswered(name, error)]
    if not parsed.events:
        return [_unanswered(name, GatewayError("no balance is in its answer"))]
    return [ok("vendor", "it told the balance: the credentials are accepted", account=name)]


async def _by_id(
    name: str, settings: AccountSettings, client: Client, known: Known | None
) -> list[Finding]:
    try:
        settings.gateway.parse_reply(await _asked(client, known), settings.account)
    except Refused as error:
        if error.code in _NOT_YOU:
            return [
                failed(
                    "vendor", f"it does not answer us: {error}", _LOOK_AT_CREDENTIALS, account=name
                )
            ]
        answers = ok("vendor", "it answers", account=name)
        if known is not None:
            words = f"it does not know what it should: {error}"
            return [answers, warning("credentials", words, _LOOK_AT_CREDENTIALS, account=name)]
        words = f"nothing is known here that the vendor could be asked about; of what nobody has it said: {error}"
        advice = "ask again when a sign, a template or a message of the account is known"
        return [answers, not_checked("credentials", words, advice, account=name)]
    except GatewayError as error:
        return [_unanswered(name, error)]
    return [ok("vendor", "it answered a query: the credentials are accepted", account=name)]


async def _asked(client: Client, known: Known | None) -> Reply:
    if known is None:
        return await client.query_review(ReviewKind.SIGN, _NO_ID)
    if known.kind is None:
        return await client.query_status([known.vendor_id])
    return await client.query_review(ReviewKind(known.kind), known.vendor_id)


async def _by_reaching(
    name: str, settings: AccountSettings, http: httpx.AsyncClient
) -> list[Finding]:
    try:
        await http.get(settings.account.base_url)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = Unavailable(f"the vendor cannot be reached ({type(error).__name__})")
        return [_unanswered(name, reason)]
    return [
        ok("vendor", "its host answers", account=name),
        not_checked(
            "credentials",
            "the vendor has no call that is harmless",
            "the first text that is sent shows whether they are accepted",
            account=name,
        ),
    ]


def _unanswered(name: str, error: GatewayError) -> Finding:
    if isinstance(error, Unavailable | Indeterminate):
        return failed("vendor", str(error), _LOOK_AT_NETWORK, account=name)
    return failed(
        "vendor",
        f"what answers is not understood: {error}",
        "look at base_url: is it the vendor's API, and no proxy's page",
        account=name,
    )


def _clock(name: str, dates: list[tuple[datetime, str]]) -> list[Finding]:
    """Compare our clock with the vendor's, by the header of its last answer."""
    if not dates:
        return []
    ours, header = dates[-1]
    try:
        theirs = parsedate_to_datetime(header)
    except ValueError:
        return [not_checked("clock", "the vendor's answers have no Date", account=name)]
    off = (theirs.replace(tzinfo=theirs.tzinfo or UTC) - ours).total_seconds()
    words = f"ours and the vendor's differ by {abs(off):.0f} seconds"
    if abs(off) < _OFF_SECONDS:
        return [ok("clock", words, account=name)]
    advice = "let this machine keep its time by NTP: vendors refuse what is signed with a wrong one"
    return [
        (failed if abs(off) >= _FAR_OFF_SECONDS else warning)("clock", words, advice, account=name)
    ]

"""What every page is made with: templates, words, figures and times as people read them."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jinja2
import msgspec
from litestar import MediaType, Request, Response
from litestar.exceptions import PermissionDeniedException
from litestar.response import Redirect
from markupsafe import Markup, escape

from reconciler.dashboard.access import Asker
from reconciler.dashboard.words import COOKIE as LANGUAGE_COOKIE
from reconciler.dashboard.words import LANGUAGES, Words, in_chinese, language_of
from reconciler.tokens import Role
from runtime.settings import Settings

STATIC = Path(__file__).parent / "static"
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        "object-src 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
# What the navigation holds: addresses, the first of which it leads to, and the key of its words.
NAVIGATION = (
    (("/",), "nav.overview"),
    (("/reconciliation", "/runs", "/upload", "/assumed"), "nav.reconciliation"),
    (("/discrepancies",), "nav.discrepancies"),
    (("/credits",), "nav.credits"),
    (("/messages",), "nav.messages"),
    (("/callbacks", "/orphans", "/records", "/suspects"), "nav.callbacks"),
    (("/signs",), "nav.signs"),
    (("/inbound",), "nav.inbound"),
    (("/audit",), "nav.audit"),
    (("/jobs",), "nav.jobs"),
    (("/settings",), "nav.settings"),
)
# How a state looks wherever it stands.
TONES = {
    **dict.fromkeys(("delivered", "balanced", "settled", "approved", "credited", "closed"), "good"),
    **dict.fromkeys(
        ("failed", "refused", "quarantined", "rejected", "discrepant", "disputed", "lost"), "bad"
    ),
    **dict.fromkeys(
        ("expired", "indeterminate", "unknown", "unreconciled", "no_statement", "open"), "warn"
    ),
}

_environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@cache
def asset(name: str) -> str:
    """Return the address of a static file: it holds the content's hash, and never changes."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/static/{digest}/{name}"


def language(request: Request[Any, Any, Any]) -> str:
    """Return the language that the request is answered in."""
    return language_of(
        request.cookies.get(LANGUAGE_COOKIE), request.headers.get("accept-language", "")
    )


def asker(request: Request[Any, Any, Any]) -> Asker:
    """Return who asks; only where the front let nobody else through."""
    found: Asker = request.scope["user"]
    return found


def is_partial(request: Request[Any, Any, Any]) -> bool:
    """Whether htmx asks for a part of a page."""
    return request.headers.get("hx-request") == "true"


def render(
    request: Request[Any, Any, Any], template: str, *, status: int = 200, **values: Any
) -> Response[str]:
    """Answer with a page, or with a part of one."""
    settings: Settings = request.app.state.settings
    words = Words(language(request))
    who: Asker | None = request.scope.get("user")
    text = _environment.get_template(template).render(
        t=words,
        language=words.language,
        languages=LANGUAGES,
        asker=who,
        csrf="" if who is None else who.csrf,
        may_operate=who is not None and who.role >= Role.OPERATOR,
        may_close=who is not None and who.role >= Role.ADMIN,
        path=request.url.path,
        here=request.url.path + (f"?{request.url.query}" if request.url.query else ""),
        navigation=[(paths[0], key, _is_at(paths, request.url.path)) for paths, key in NAVIGATION],
        partial=is_partial(request),
        time=Times(settings, words),
        said=Said(words),
        zone_of=lambda account: zone_of(settings, account).key,
        **values,
    )
    return Response(text, status_code=status, media_type=MediaType.HTML)


def _is_at(paths: tuple[str, ...], path: str) -> bool:
    return any(path == each or (each != "/" and path.startswith(f"{each}/")) for each in paths)


def words_of(request: Request[Any, Any, Any]) -> Words:
    """Return the words of the request's language."""
    return Words(language(request))


def zone_of(settings: Settings, account: str | None) -> Any:
    """Return the zone of an account, or of the settings."""
    known = settings.accounts.get(account or "")
    return settings.timezone if known is None else known.account.zone


class Times:
    """Shows a time in the zone of an account, as an element that machines read too."""

    def __init__(self, settings: Settings, words: Words) -> None:
        self._settings = settings
        self._words = words

    def __call__(self, at: str | datetime | None, account: str | None = None) -> Markup:
        if at is None:
            return Markup('<span class="none">–</span>')
        moment = _moment(at)
        local = moment.astimezone(zone_of(self._settings, account))
        return Markup('<time datetime="{}" title="{}">{}</time>').format(
            moment.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            f"{local:%Y-%m-%d %H:%M:%S} {local.tzinfo}",
            f"{local:%Y-%m-%d %H:%M:%S}",
        )

    def ago(self, at: str | datetime | None) -> Markup:
        """Show how long ago a time is, in the largest unit that fits."""
        if at is None:
            return Markup('<span class="none">–</span>')
        moment = _moment(at)
        seconds = (datetime.now(UTC) - moment).total_seconds()
        key = "in" if seconds < 0 else "ago"
        said = self._words(f"time.{key}", span=span(abs(seconds), self._words))
        return Markup('<time datetime="{}" title="{}">{}</time>').format(
            moment.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            f"{moment.astimezone(self._settings.timezone):%Y-%m-%d %H:%M:%S}",
            self._words("time.now") if abs(seconds) < 1 else said,
        )


def _moment(at: str | datetime) -> datetime:
    return at if isinstance(at, datetime) else datetime.fromisoformat(at)


def span(seconds: float | None, words: Words) -> str:
    """Say how long `seconds` are, in one unit or two."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return words("time.seconds", n=f"{seconds:.0f}")
    if seconds < 3600:
        minutes, rest = divmod(round(seconds), 60)
        said = words("time.minutes", n=minutes)
        return f"{said} {words('time.seconds', n=rest)}" if rest and minutes < 10 else said
    if seconds < 172_800:
        hours, rest = divmod(round(seconds / 60), 60)
        said = words("time.hours", n=hours)
        return f"{said} {words('time.minutes', n=rest)}" if rest and hours < 10 else said
    return words("time.days", n=f"{seconds / 86_400:.0f}")


def grouped(value: Any) -> str:
    """Return a number with its thousands parted; decimal text keeps every digit that it has."""
    if value is None:
        return "–"
    text = f"{value:f}" if isinstance(value, Decimal) else str(value)
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    whole, point, rest = digits.partition(".")
    return f"{sign}{int(whole):,}{point}{rest}" if whole.isdigit() else text


def signed(value: Any) -> str:
    """Return a number as `grouped` does, with a + before what is more than nothing."""
    text = grouped(value)
    return f"+{text}" if text[:1] not in "-–" and Decimal(str(value)) > 0 else text


def share(part: int, whole: int) -> str:
    """Return a share in percent, as exact as it says something."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    return f"{percent:.0f}%" if part in (0, whole) else f"{percent:.1f}%"


def short(digest: str | None) -> Markup:
    """Show the beginning of a digest or id; the whole of it stands in its title."""
    if digest is None:
        return Markup('<span class="none">–</span>')
    return Markup('<span class="mono" title="{}">{}</span>').format(digest, digest[:10])


def data(name: str, value: Any) -> Markup:
    """Put `value` into the page for a script of ours to read; a browser runs none of it."""
    text = msgspec.json.encode(value).decode().replace("<", "\\u003c").replace("&", "\\u0026")
    return Markup('<script type="application/json" id="{}">{}</script>').format(
        name,
        Markup(text),  # noqa: S704  no < is left in it
    )


def link(path: str, values: Mapping[str, Any], /, **changed: Any) -> str:
    """Return an address with a query: of `values` and `changed` what is neither None nor empty."""
    query = {
        name: value for name, value in {**values, **changed}.items() if value not in (None, "")
    }
    return f"{path}{'&' if '?' in path else '?'}{urlencode(query)}" if query else path


def none_or(value: Any) -> Any:
    """Show a dash for what is not there."""
    return Markup('<span class="none">–</span>') if value in (None, "") else escape(value)


class Said:
    """Shows a sentence of the functions below, which speak English, in the page's language if it can."""

    def __init__(self, words: Words) -> None:
        self._words = words

    def __call__(self, sentence: object) -> Markup:
        text = str(sentence)
        chinese = in_chinese(text) if self._words.language == "zh" else None
        if chinese is not None:
            return Markup("<span>{}</span>").format(chinese)
        return Markup('<span lang="en">{}</span>').format(text)


def tone(state: str | None) -> str:
    """Say how a state looks: good, bad, warn or plain."""
    return TONES.get(state or "", "plain")


_environment.filters.update(
    grouped=grouped, signed=signed, short=short, orno=none_or, tone=tone, span=span
)
_environment.globals.update(asset=asset, share=share, data=data, link=link)


def asked(request: Request[Any, Any, Any], name: str) -> str | None:
    """Return a parameter of the query, None where it is missing or empty."""
    return (request.query_params.get(name) or "").strip() or None


def account_asked(request: Request[Any, Any, Any]) -> str | None:
    """Return the account that the query names, None for all."""
    return asked(request, "account")


def accounts_of(request: Request[Any, Any, Any], account: str | None) -> list[str]:
    """Return the accounts to read: the one named, also if it has left the settings, or all."""
    return [account] if account is not None else sorted(request.app.state.settings.accounts)


def need(request: Request[Any, Any, Any], role: Role) -> None:
    """Refuse who may not do this."""
    if asker(request).role < role:
        raise PermissionDeniedException("role")


def goes_on(to: str, *, request: Request[Any, Any, Any] | None = None) -> Response[Any]:
    """Go to another page; htmx is told in its own way."""
    if request is not None and is_partial(request):
        return Response(b"", media_type="text/html", headers={"hx-redirect": to})
    return Redirect(to, status_code=303)


def with_format(address: str, shape: str) -> str:
    """Return the address of a list of the API as a file."""
    return f"{address}{'&' if '?' in address else '?'}format={shape}"


_environment.globals.update(with_format=with_format)

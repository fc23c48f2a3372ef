"""Every call that may change something, recorded before it is carried out and after."""

import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from reconciler import actions
from reconciler.tokens import Asker


class Recorded:
    """Records what `asker` says somebody does; what is nobody's is let through as it is."""

    def __init__(
        self, app: ASGIApp, via: actions.Via, asker: Callable[[Scope], Asker | None]
    ) -> None:
        self._app = app
        self._via = via
        self._asker = asker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != ScopeType.HTTP or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        caller = self._asker(scope)
        if caller is None:
            await self._app(scope, receive, send)
            return
        pool = scope["litestar_app"].state.pool
        action = actions.Action(
            id=uuid4(),
            actor=caller.name,
            role=caller.role.word,
            via=self._via,
            peer=(scope["client"] or ("",))[0],
            what=f"{scope['method']} {_template(scope['path_template'])}",
        )
        noted = await actions.begin(pool, action, **scope["path_params"])
        ended = False

        async def told(message: Any) -> None:
            nonlocal ended
            if message["type"] == "http.response.start":
                ended = True
                status = message["status"]
                await actions.end(pool, action, noted, failed=status >= 400, status=status)
            await send(message)

        try:
            await self._app(scope, receive, told)
        finally:
            if not ended:  # the caller went away
                await actions.end(pool, action, noted, failed=True, status=499)


def _template(path: str) -> str:
    return re.sub(r"\{(\w+):\w+\}", r"{\1}", path)

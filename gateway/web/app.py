"""All routes of the gateway behind one guard."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from gateway.access.desk import Desk
from gateway.access.identity import Identity
from gateway.access.policy import Plain, allow
from gateway.access.rates import place, retry_after
from gateway.clock import Clock
from gateway.registry.registry import Registry
from gateway.store import queries
from gateway.store.db import Store
from gateway.web import forms, page
from gateway.web.guard import BodyLimit, Doors, Guard
from gateway.web.headers import cookie_name
from gateway.web.oauth import OAuth
from gateway.web.pairing import PairingPages, after
from gateway.web.sessions import Sessions

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Probe:
    """A health answer: whether all is well, and what to say."""

    well: bool
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Site:
    """What the pages show and where they ask for it."""

    name: str
    zone: ZoneInfo
    store: Store
    registry: Registry
    clock: Clock
    identity: Identity
    desk: Desk


@dataclass(frozen=True, slots=True)
class Watch:
    """What watches the gateway: liveness (anybody may ask, so it says little), readiness, Prometheus text."""

    live: Callable[[], Probe]
    ready: Callable[[], Probe]
    metrics: Callable[[], str]


def build(
    site: Site,
    mcp: ASGIApp,
    watch: Watch,
    names: Callable[[], Collection[str]],
    *,
    origins: Collection[str] = (),
    plain: Plain = Plain.READ,
    routes: Sequence[Route] = (),
    limits: Mapping[str, BodyLimit] | None = None,
    node: Callable[[str, str], str | None] = lambda _path, _authorization: None,
) -> Guard:
    """The whole ASGI app. `names` gives the host names that the gateway goes by (`headers.names`), asked for each
    request; `routes` are those of other parts, `limits` the bodies that may be longer than others (`Guard.limits`),
    `node` tells which node a path's Authorization proves to be (`Doors.node`);
    leave `guard.close` to `Serving(drain=...)`."""
    sessions = Sessions(site.desk.tokens.holder, site.clock)
    pairing = PairingPages(site.name, site.desk, sessions, site.clock, plain)
    pages = Pages(site, watch, sessions, pairing, plain)
    oauth = OAuth(site.name, site.desk, plain)
    own = [
        Route("/mcp", mcp),  # no Mount: that redirects, and clients lose their POST
        Route("/", pages.status),
        Route("/pair", pairing.show),
        Route("/pair", pairing.pair, methods=["POST"]),
        Route("/pair/decide", pairing.decide, methods=["POST"]),
        Route("/oauth/device_authorization", oauth.device_authorization, methods=["POST"]),
        Route("/oauth/token", oauth.token, methods=["POST"]),
        Route("/oauth/revoke", oauth.revoke, methods=["POST"]),
        Route("/.well-known/oauth-authorization-server", oauth.server_metadata),
        Route("/.well-known/oauth-protected-resource", oauth.resource_metadata),
        Route("/.well-known/oauth-protected-resource/mcp", oauth.resource_metadata),
        Route("/login", pages.login, methods=["POST"]),
        Route("/logout", pages.logout, methods=["POST"]),
        Route("/healthz", pages.live),
        Route("/readyz", pages.ready),
        Route("/metrics", pages.metrics),
    ]
    doors = Doors(site.desk, sessions.principal, names, origins, plain, node)
    return Guard(Starlette(routes=[*own, *routes]), doors, limits=limits or {}, refused=site.desk.refused)


class Pages:
    """The routes for people and monitors."""

    def __init__(self, site: Site, watch: Watch, sessions: Sessions, pairing: PairingPages, plain: Plain) -> None:
        self._site = site
        self._watch = watch
        self._sessions = sessions
        self._pairing = pairing
        self._plain = plain

    async def live(self, request: Request) -> Response:
        """Liveness, for whoever restarts us; the one page that needs no token and says no more than that."""
        return _probe(self._watch.live())

    async def ready(self, request: Request) -> Response:
        """Readiness: whether readings are stored and questions answered."""
        return await self._denied(request, "view_readiness") or _probe(self._watch.ready())

    async def metrics(self, request: Request) -> Response:
        """Prometheus text."""
        return await self._denied(request, "view_metrics") or Response(self._watch.metrics(), media_type=METRICS_TYPE)

    async def status(self, request: Request) -> Response:
        """The newest values of all devices, and how to connect an assistant."""
        if denied := await self._denied(request, "view_page"):
            return denied
        site = self._site
        shown = page.Status(
            site.name,
            site.clock.now(),
            site.zone,
            page.cards(site.registry.devices(), queries.latest(site.store)),
            forms.base(request),
            site.identity.fingerprint,
            request.state.principal.name,
            self._sessions.form_token(forms.session_of(request)),
        )
        return forms.html(page.status(shown))

    async def login(self, request: Request) -> Response:
        """Turn a token into a session of this browser."""
        form, desk = await forms.fields(request), self._site.desk
        user_code, token = form.get("user_code", ""), form.get("token", "").strip()
        if not forms.is_own(request, form.get("form", "")):
            text = "This form was too old or not ours. Please try again."
            return self._pairing.entrance(request, text, 403, user_code)
        principal = await desk.tokens.verify(token)
        if principal is None:
            return await self._wrong_token(request, token, user_code)
        if principal.scope > forms.most(request, self._plain):
            await desk.audit.refuse(principal.name, "sign_in", principal.name, "more than read over plain HTTP")
            text = "This token may do more than read, and plain HTTP shows it to others. Use the HTTPS address."
            return self._pairing.entrance(request, text, 403, user_code)
        answer = RedirectResponse(after(user_code), status_code=303)
        forms.open_session(answer, request, self._sessions, principal)
        return answer

    async def logout(self, request: Request) -> Response:
        """End this browser's session."""
        session = forms.session_of(request)
        form = await forms.fields(request)
        if not session or not self._sessions.is_form_token(session, form.get("form", "")):
            return PlainTextResponse("this form is not of your session; load the page again", 403)
        self._sessions.close(session)
        answer = RedirectResponse("/pair", status_code=303)
        answer.delete_cookie(cookie_name(request.scope), secure=request.url.scheme == "https")
        return answer

    async def _wrong_token(self, request: Request, token: str, user_code: str) -> Response:
        desk, where = self._site.desk, place((request.scope.get("client") or ("",))[0])
        if wait_s := desk.failures.spend(where):
            text = "Too many wrong tokens from this address. A right one is still taken."
            answer = self._pairing.entrance(request, text, 429, user_code)
            answer.headers["retry-after"] = retry_after(wait_s)
            return answer
        if name := desk.tokens.ended(token):
            await desk.audit.refuse(name, "sign_in", name, "the token is revoked or expired")
        return self._pairing.entrance(request, "This token is unknown, expired or revoked.", 401, user_code)

    async def _denied(self, request: Request, action: str) -> Response | None:
        who = request.state.principal
        verdict = allow(who, action, secure=request.state.secure, plain=self._plain)
        if verdict.allowed:
            return None
        await self._site.desk.audit.record(who, action, "", verdict)
        return PlainTextResponse(verdict.reason, 403)


def _probe(probe: Probe) -> Response:
    return JSONResponse({"status": "ok" if probe.well else "failing", **probe.detail}, 200 if probe.well else 503)

"""All routes of the gateway behind one guard."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from secrets import compare_digest, token_urlsafe
from typing import Any
from urllib.parse import parse_qs
from zoneinfo import ZoneInfo

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from gateway.access.identity import Identity
from gateway.access.policy import Plain, allow
from gateway.access.principal import Scope
from gateway.access.tokens import Tokens
from gateway.clock import Clock
from gateway.registry.registry import Registry
from gateway.store import queries
from gateway.store.db import Store
from gateway.web import page
from gateway.web.guard import Doors, Guard
from gateway.web.headers import TLS_COOKIE, cookie, cookie_name
from gateway.web.sessions import LIFETIME, Sessions

FORM_COOKIE = "agw_form"
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
    tokens: Tokens


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
) -> Guard:
    """The whole ASGI app. `names` gives the host names that the gateway goes by (`headers.names`), asked for each
    request; leave `guard.close` to `Serving(drain=...)`."""
    sessions = Sessions(site.tokens.holder, site.clock)
    pages = Pages(site, watch, sessions, plain)
    routes = [
        Route("/mcp", mcp),  # no Mount: that redirects, and clients lose their POST
        Route("/", pages.status),
        Route("/pair", pages.pair),
        Route("/login", pages.login, methods=["POST"]),
        Route("/logout", pages.logout, methods=["POST"]),
        Route("/healthz", pages.live),
        Route("/readyz", pages.ready),
        Route("/metrics", pages.metrics),
    ]
    doors = Doors(site.tokens.verify, sessions.principal, names, origins, plain)
    return Guard(Starlette(routes=routes), doors)


class Pages:
    """The routes for people and monitors."""

    def __init__(self, site: Site, watch: Watch, sessions: Sessions, plain: Plain) -> None:
        self._site = site
        self._watch = watch
        self._sessions = sessions
        self._plain = plain

    async def live(self, request: Request) -> Response:
        """Liveness, for whoever restarts us; the one page that needs no token and says no more than that."""
        return _probe(self._watch.live())

    async def ready(self, request: Request) -> Response:
        """Readiness: whether readings are stored and questions answered."""
        return self._denied(request, "view_readiness") or _probe(self._watch.ready())

    async def metrics(self, request: Request) -> Response:
        """Prometheus text."""
        return self._denied(request, "view_metrics") or Response(self._watch.metrics(), media_type=METRICS_TYPE)

    async def status(self, request: Request) -> Response:
        """The newest values of all devices, and how to connect an assistant."""
        if denied := self._denied(request, "view_page"):
            return denied
        site = self._site
        shown = page.Status(
            site.name,
            site.clock.now(),
            site.zone,
            page.cards(site.registry.devices(), queries.latest(site.store)),
            f"{request.url.scheme}://{request.headers['host']}",
            site.identity.fingerprint,
            request.state.principal.name,
            self._sessions.form_token(_session(request)),
        )
        return _html(page.status(shown))

    async def pair(self, request: Request) -> Response:
        """Where a token is handed over to this browser."""
        if request.state.principal is not None:
            return RedirectResponse("/", status_code=303)
        return self._form(request)

    async def login(self, request: Request) -> Response:
        """Turn a token into a session of this browser."""
        form = await _form(request)
        if not self._is_own_form(request, form.get("form", "")):
            return self._form(request, "This form was too old or not ours. Please try again.", 403)
        principal = await self._site.tokens.verify(form.get("token", "").strip())
        if principal is None:
            return self._form(request, "This token is unknown, expired or revoked.", 401)
        if principal.scope > Scope.READ and not request.state.secure and self._plain is not Plain.ALL:
            text = "This token may do more than read, and plain HTTP shows it to others. Use the HTTPS address."
            return self._form(request, text, 403)
        answer = RedirectResponse("/", status_code=303)
        _set(answer, request, cookie_name(request.scope), self._sessions.open(principal), int(LIFETIME.total_seconds()))
        answer.delete_cookie(FORM_COOKIE)
        return answer

    async def logout(self, request: Request) -> Response:
        """End this browser's session."""
        session = _session(request)
        form = await _form(request)
        if not session or not self._sessions.is_form_token(session, form.get("form", "")):
            return PlainTextResponse("this form is not of your session; load the page again", 403)
        self._sessions.close(session)
        answer = RedirectResponse("/pair", status_code=303)
        answer.delete_cookie(cookie_name(request.scope), secure=request.url.scheme == "https")
        return answer

    def _form(self, request: Request, message: str = "", status: int = 200) -> Response:
        token = token_urlsafe(16)
        answer = _html(page.pair(self._site.name, token, message, plain=not request.state.secure), status)
        _set(answer, request, FORM_COOKIE, token, 3600)
        return answer

    def _is_own_form(self, request: Request, given: str) -> bool:
        """The form was made by us for this browser (double submit), and this very origin posts it."""
        made = cookie(request.headers, request.scope, FORM_COOKIE)
        same_site = request.headers.get("sec-fetch-site", "same-origin") == "same-origin"
        return bool(made) and compare_digest(made.encode(), given.encode()) and same_site

    def _denied(self, request: Request, action: str) -> Response | None:
        verdict = allow(request.state.principal, action, secure=request.state.secure, plain=self._plain)
        return None if verdict.allowed else PlainTextResponse(verdict.reason, 403)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a posted form, the last of each name; the guard has bounded its size."""
    text = (await request.body()).decode("utf-8", "replace")
    return {name: values[-1] for name, values in parse_qs(text, max_num_fields=16).items()}


def _session(request: Request) -> str:
    return cookie(request.headers, request.scope)


def _set(answer: Response, request: Request, name: str, value: str, age_s: int) -> None:
    secure = request.url.scheme == "https"
    assert secure or name != TLS_COOKIE
    answer.set_cookie(name, value, max_age=age_s, httponly=True, samesite="strict", secure=secure, path="/")


def _html(text: str, status: int = 200) -> Response:
    return HTMLResponse(text, status, headers={"content-security-policy": page.POLICY})


def _probe(probe: Probe) -> Response:
    return JSONResponse({"status": "ok" if probe.well else "failing", **probe.detail}, 200 if probe.well else 503)

"""Forms of this gateway's own pages: their fields, who posts them, and the cookies around them."""

from secrets import compare_digest, token_urlsafe
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from gateway.access.policy import Plain
from gateway.access.principal import Principal, Scope
from gateway.web import page
from gateway.web.headers import TLS_COOKIE, authority, cookie, cookie_name
from gateway.web.sessions import LIFETIME, Sessions

FORM_COOKIE = "agw_form"
MAX_FIELDS = 16


async def fields(request: Request) -> dict[str, str]:
    """The fields of a posted form, the last of each name (none where there are too many); the guard has bounded its
    size."""
    try:
        return {name: values[-1] for name, values in (await all_fields(request)).items()}
    except ValueError:
        return {}


async def all_fields(request: Request) -> dict[str, list[str]]:
    """The same with every value; ValueError where there are too many."""
    return parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=MAX_FIELDS)


def session_of(request: Request) -> str:
    """The id of this browser's session, "" without one."""
    return cookie(request.headers, request.scope)


def signed_in(request: Request, sessions: Sessions) -> Principal | None:
    """Whom this browser's session stands for; guests and bearers of tokens have none."""
    session = session_of(request)
    return sessions.principal(session) if session else None


def most(request: Request, plain: Plain) -> Scope:
    """The highest scope that this transport may carry."""
    return Scope.ADMIN if request.state.secure or plain is Plain.ALL else Scope.READ


def base(request: Request) -> str:
    """Where this was asked for, as in https://pi.local:8443."""
    return f"{request.url.scheme}://{authority(request.headers['host'])}"


def is_own(request: Request, given: str) -> bool:
    """The form was made by us for this browser (double submit), and this very origin posts it."""
    made = cookie(request.headers, request.scope, FORM_COOKIE)
    same_site = request.headers.get("sec-fetch-site", "same-origin") == "same-origin"
    return bool(made) and compare_digest(made.encode(), given.encode()) and same_site


def new_token() -> str:
    """What a form carries, and a cookie beside it (`set_form`)."""
    return token_urlsafe(16)


def set_form(answer: Response, request: Request, token: str) -> None:
    set_cookie(answer, request, FORM_COOKIE, token, 3600)


def open_session(answer: Response, request: Request, sessions: Sessions, principal: Principal) -> None:
    """Sign this browser in."""
    session = sessions.open(principal)
    set_cookie(answer, request, cookie_name(request.scope), session, int(LIFETIME.total_seconds()))
    answer.delete_cookie(FORM_COOKIE)


def set_cookie(answer: Response, request: Request, name: str, value: str, age_s: int) -> None:
    secure = request.url.scheme == "https"
    assert secure or name != TLS_COOKIE
    answer.set_cookie(name, value, max_age=age_s, httponly=True, samesite="strict", secure=secure, path="/")


def html(text: str, status: int = 200) -> Response:
    return HTMLResponse(text, status, headers={"content-security-policy": page.POLICY})

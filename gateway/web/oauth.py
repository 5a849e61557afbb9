"""OAuth for apps without a browser: RFC 8628 device authorization, RFC 6749 refresh, RFC 7009 revocation, and the
documents by which clients find that out (RFC 8414, RFC 9728)."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.access.desk import Desk
from gateway.access.grants import GrantError, Issued
from gateway.access.policy import Plain
from gateway.access.principal import Scope
from gateway.access.rates import place, retry_after
from gateway.store.errors import StoreError
from gateway.web import forms

DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
SCOPES = {str(scope): scope for scope in Scope}
FORM = "application/x-www-form-urlencoded"
BUSY_S = 60.0


class OAuth:
    """The routes below /oauth and /.well-known. Clients are public and need no registration: a client_id is only what
    an app calls itself, and the owner sees it before anything is granted."""

    def __init__(self, name: str, desk: Desk, plain: Plain) -> None:
        self._name, self._desk, self._plain = name, desk, plain

    async def device_authorization(self, request: Request) -> Response:
        """An app asks; the answer tells it what to show, and how often to poll."""
        try:
            given = await _parameters(request)
            scope = _scope(given.get("scope", ""))
            if scope > forms.most(request, self._plain):
                raise GrantError("invalid_scope", f"scope {scope} needs TLS or loopback; use the HTTPS address")
            asked = self._desk.grants.ask(given.get("client_id", ""), scope, _place(request))
        except GrantError as error:
            return self._error(request, error)
        page = f"{forms.base(request)}/pair"
        return JSONResponse(
            {
                "device_code": asked.device_code,
                "user_code": asked.user_code,
                "verification_uri": page,
                "verification_uri_complete": f"{page}?user_code={asked.user_code}",
                "expires_in": asked.expires_s,
                "interval": asked.interval_s,
            }
        )

    async def token(self, request: Request) -> Response:
        """Device code or refresh token in, tokens out; the errors are those of the RFCs."""
        most = forms.most(request, self._plain)
        try:
            given = await _parameters(request)
            match given.get("grant_type"):
                case grant if grant == DEVICE_CODE:
                    issued = await self._desk.grants.poll(_need(given, "client_id"), _need(given, "device_code"), most)
                case "refresh_token":
                    _scope(given.get("scope", ""))
                    issued = await self._desk.grants.refresh(
                        _need(given, "client_id"), _need(given, "refresh_token"), most
                    )
                case None:
                    raise GrantError("invalid_request", "grant_type is missing")
                case _:
                    raise GrantError("unsupported_grant_type", f"only {DEVICE_CODE} and refresh_token are supported")
        except GrantError as error:
            return self._error(request, error)
        except StoreError as error:
            return self._error(request, GrantError("temporarily_unavailable", str(error)))
        return JSONResponse(_issued(issued), headers={"pragma": "no-cache"})

    async def revoke(self, request: Request) -> Response:
        """End a token and all that belongs to it; 200 also where it is unknown (RFC 7009 section 2.2)."""
        try:
            given = await _parameters(request)
            await self._desk.grants.revoke(_need(given, "token"))
        except GrantError as error:
            return self._error(request, error)
        except StoreError as error:
            return self._error(request, GrantError("temporarily_unavailable", str(error)))
        return JSONResponse({})

    async def server_metadata(self, request: Request) -> Response:
        """RFC 8414, for the address that this was asked at."""
        base = forms.base(request)
        return JSONResponse(
            {
                "issuer": base,
                "device_authorization_endpoint": f"{base}/oauth/device_authorization",
                "token_endpoint": f"{base}/oauth/token",
                "revocation_endpoint": f"{base}/oauth/revoke",
                "grant_types_supported": [DEVICE_CODE, "refresh_token"],
                "response_types_supported": [],
                "token_endpoint_auth_methods_supported": ["none"],
                "revocation_endpoint_auth_methods_supported": ["none"],
                "scopes_supported": self._scopes(request),
            }
        )

    async def resource_metadata(self, request: Request) -> Response:
        """RFC 9728: /mcp is protected by this very server."""
        base = forms.base(request)
        return JSONResponse(
            {
                "resource": f"{base}/mcp" if request.url.path.endswith("/mcp") else base,
                "resource_name": self._name,
                "authorization_servers": [base],
                "bearer_methods_supported": ["header"],
                "scopes_supported": self._scopes(request),
            }
        )

    def _scopes(self, request: Request) -> list[str]:
        most = forms.most(request, self._plain)
        return [name for name, scope in SCOPES.items() if scope <= most]

    def _error(self, request: Request, error: GrantError) -> Response:
        """The error as the RFCs want it; who guesses is slowed down, by address."""
        body = {"error": error.code, "error_description": str(error)}
        if error.code == "temporarily_unavailable":
            return JSONResponse(body, 503, headers={"retry-after": retry_after(BUSY_S)})
        guess = error.code in {"invalid_grant", "expired_token"}
        if guess and (wait_s := self._desk.failures.spend(_place(request))):
            text = "too many wrong codes and tokens from this address; right ones are still taken"
            body = {"error": "temporarily_unavailable", "error_description": text}
            return JSONResponse(body, 429, headers={"retry-after": retry_after(wait_s)})
        return JSONResponse(body, 400)


async def _parameters(request: Request) -> Mapping[str, str]:
    """The form, each parameter once (RFC 6749 section 3.2)."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise GrantError("invalid_request", f"send the parameters as {FORM}")
    try:
        given = await forms.all_fields(request)
    except ValueError as error:
        raise GrantError("invalid_request", f"at most {forms.MAX_FIELDS} parameters") from error
    for name, values in given.items():
        if len(values) > 1:
            raise GrantError("invalid_request", f"{name[:40]!r} is there twice")
    return {name: values[0] for name, values in given.items()}


def _need(given: Mapping[str, str], name: str) -> str:
    if not given.get(name):
        raise GrantError("invalid_request", f"{name} is missing")
    return given[name]


def _scope(text: str) -> Scope:
    """The widest of some scopes; each includes the ones before it."""
    for name in text.split():
        if name not in SCOPES:
            raise GrantError("invalid_scope", f"scope {name[:40]!r} is none of {', '.join(SCOPES)}")
    return max((SCOPES[name] for name in text.split()), default=Scope.READ)


def _issued(issued: Issued) -> dict[str, object]:
    return {
        "access_token": issued.access_token,
        "token_type": "Bearer",
        "expires_in": issued.expires_s,
        "refresh_token": issued.refresh_token,
        "scope": str(issued.scope),
    }


def _place(request: Request) -> str:
    return place((request.scope.get("client") or ("",))[0])

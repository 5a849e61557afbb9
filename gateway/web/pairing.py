"""/pair: a code becomes a session of this browser (and a token, if asked), and its owner decides about apps."""

import re
import secrets

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from gateway.access.desk import Desk
from gateway.access.grants import GrantError
from gateway.access.pairing import PairingError
from gateway.access.policy import Plain
from gateway.access.principal import Principal, Scope
from gateway.access.rates import place, retry_after
from gateway.access.tokens import NAME
from gateway.clock import Clock
from gateway.store.errors import StoreError
from gateway.web import forms, pair_page
from gateway.web.pair_page import Asking, Entrance
from gateway.web.sessions import LIFETIME, Sessions

USER_CODE = re.compile(r"[A-Za-z]{4}-?[A-Za-z]{4}")


class PairingPages:
    """The routes /pair and /pair/decide, and what /login shows."""

    def __init__(self, name: str, desk: Desk, sessions: Sessions, clock: Clock, plain: Plain) -> None:
        self._name, self._desk, self._sessions, self._clock, self._plain = name, desk, sessions, clock, plain

    async def show(self, request: Request) -> Response:
        """The entrance; for who is signed in, the app that waits with the code in the address."""
        given = request.query_params.get("user_code", "")
        who = forms.signed_in(request, self._sessions)
        if who is None:
            return self.entrance(request, user_code=given)
        if not given:
            return forms.html(pair_page.waiting(self._name, who.name))
        return self._asking(request, who, given)

    async def pair(self, request: Request) -> Response:
        """A pairing code in, a session out. 403 with the reason for any code that is not taken."""
        form = await forms.fields(request)
        user_code, name = form.get("user_code", ""), form.get("name", "").strip()
        if not forms.is_own(request, form.get("form", "")):
            return self.entrance(request, "This form was too old or not ours. Please try again.", 403, user_code)
        if name and not NAME.fullmatch(name):
            text = "A name has 1 to 64 letters, digits and . _ @ -, and does not start with a sign."
            return self.entrance(request, text, 400, user_code)
        try:
            window = self._desk.pairing.take(form.get("code", ""), forms.most(request, self._plain))
        except PairingError as error:
            return self.entrance(request, _sentence(str(error)), 403, user_code)
        show, name = form.get("show") == "yes", self._free(name)
        where = place((request.scope.get("client") or ("",))[0])
        reason, detail = f"paired with a code of {window.opened_by}", f"scope {window.scope}, from {where}"
        try:
            await self._desk.audit.tell(name, "pair", name, reason, detail)
            token, principal = await self._let_in(name, window.scope, keep=show)
        except StoreError as error:
            return self.entrance(request, _sentence(f"the gateway cannot keep this: {error}"), 503, user_code)
        answer: Response = RedirectResponse(after(user_code), status_code=303)
        if show:
            answer = forms.html(pair_page.shown(self._name, token, str(window.scope), forms.base(request)))
        forms.open_session(answer, request, self._sessions, principal)
        return answer

    async def decide(self, request: Request) -> Response:
        """Approve or refuse an app, as whoever this browser's session stands for."""
        form, session = await forms.fields(request), forms.session_of(request)
        who = forms.signed_in(request, self._sessions)
        if who is None or not self._sessions.is_form_token(session, form.get("form", "")):
            return PlainTextResponse("this form is not of your session; load the page again", 403)
        code, approve = form.get("user_code", ""), form.get("decision") == "approve"
        scope = next((each for each in Scope if str(each) == form.get("scope")), Scope.READ)
        try:
            name, granted = await self._desk.grants.decide(
                code, who, approve=approve, scope=scope, most=forms.most(request, self._plain)
            )
        except GrantError as error:
            return self._no(request, who, error)
        except StoreError as error:
            return self._no(request, who, GrantError("temporarily_unavailable", str(error)))
        words = f"{name} is let in with scope {granted}. It goes on by itself." if approve else f"{name} was refused."
        return forms.html(pair_page.done(self._name, words))

    def entrance(self, request: Request, message: str = "", status: int = 200, user_code: str = "") -> Response:
        """The page of who is not signed in, with a form of its own."""
        token = forms.new_token()
        code = user_code if USER_CODE.fullmatch(user_code) else ""
        page = Entrance(self._name, token, message, not request.state.secure, code)
        answer = forms.html(pair_page.entrance(page), status)
        forms.set_form(answer, request, token)
        return answer

    def _asking(self, request: Request, who: Principal, given: str) -> Response:
        found = self._desk.grants.waiting(given)
        if found is None:
            error = GrantError("expired_token", "no app waits with this code; codes live ten minutes, let it ask again")
            return self._no(request, who, error)
        widest = min(found.scope, who.scope, forms.most(request, self._plain))
        scopes = [str(each) for each in Scope if each <= widest]
        code = f"{found.user_code[:4]}-{found.user_code[4:]}"
        form_token = self._sessions.form_token(forms.session_of(request))
        asking = Asking(found.client, str(found.scope), code, scopes)
        return forms.html(pair_page.decision(self._name, who.name, asking, form_token))

    def _no(self, request: Request, who: Principal, error: GrantError) -> Response:
        """Wrong codes are counted by address: nobody may guess what other people's apps show."""
        if error.code == "expired_token":
            wait_s = self._desk.failures.spend(place((request.scope.get("client") or ("",))[0]))
            if wait_s:
                answer = PlainTextResponse("too many wrong codes from this address; wait a little", 429)
                answer.headers["retry-after"] = retry_after(wait_s)
                return answer
        status = {"expired_token": 404, "temporarily_unavailable": 503}.get(error.code, 403)
        return forms.html(pair_page.waiting(self._name, who.name, _sentence(str(error))), status)

    def _free(self, name: str) -> str:
        """This name, or one like it that no live token has."""
        live, wanted = self._desk.tokens.live(), name or f"browser-{secrets.token_hex(2)}"
        while wanted in live:
            wanted = f"{(name or 'browser')[:58]}-{secrets.token_hex(2)}"
        return wanted

    async def _let_in(self, name: str, scope: Scope, *, keep: bool) -> tuple[str, Principal]:
        """A token for the session to stand for; it ends with that unless it is shown."""
        tokens = self._desk.tokens
        token = await tokens.create(name, scope, None if keep else self._clock.now() + LIFETIME)
        principal = await tokens.verify(token)
        assert principal is not None
        return token, principal


def after(user_code: str) -> str:
    """Where a browser goes that was let in: to the app that waits, or to the values."""
    return f"/pair?user_code={user_code}" if USER_CODE.fullmatch(user_code) else "/"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."

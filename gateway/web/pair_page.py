"""The pages of first contact as text. Pure; whatever an app says of itself is escaped."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from gateway.web.page import document


@dataclass(frozen=True, slots=True)
class Entrance:
    """What somebody sees who is not signed in. `user_code` is that of an app that waits, "" without one."""

    name: str
    form_token: str
    message: str = ""
    plain: bool = False
    user_code: str = ""


@dataclass(frozen=True, slots=True)
class Asking:
    """An app that waits for a decision. `scopes` are those that may be granted here, the widest last."""

    client: str
    asked: str
    user_code: str
    scopes: Sequence[str]


def entrance(page: Entrance) -> str:
    """Where a code or a token is handed over to this browser."""
    form = f'<input type="hidden" name="form" value="{escape(page.form_token)}">'
    if page.user_code:
        form += f'<input type="hidden" name="user_code" value="{escape(page.user_code)}">'
    warning = (
        "<p>This page came over plain HTTP: others on this network could read along. "
        "Pair for scope <code>read</code> only, or use the HTTPS address.</p>"
    )
    waits = "<p>Sign in first, then decide about the app that waits.</p>"
    return document(
        page.name,
        f"""<main class="narrow"><article class="card"><h1>{escape(page.name)}</h1>
{waits if page.user_code else ""}{warning if page.plain else ""}{_said(page.message)}
<form method="post" action="/pair">{form}
<p>The gateway's terminal shows a pairing code when it starts, and whenever somebody runs <code>gateway pair</code>
there. It is good for two minutes and for one use.</p>
<label for="code">Pairing code</label>
<input id="code" name="code" autocomplete="one-time-code" placeholder="XXXX-XXXX" maxlength="16" required autofocus>
<label for="name">Name (what it is called in lists)</label>
<input id="name" name="name" maxlength="64" placeholder="kitchen-tablet">
<label><input type="checkbox" name="show" value="yes"> show me a token for an assistant, once</label>
<button>Pair this browser</button></form></article>
<article class="card"><form method="post" action="/login">{form}
<label for="token">Or sign in with a token (<code>gateway token create NAME --scope read</code> makes one)</label>
<input id="token" name="token" type="password" autocomplete="current-password" placeholder="agw_…" required>
<button>Sign in</button></form></article></main>""",
    )


def waiting(name: str, who: str, message: str = "") -> str:
    """Where the code of an app is entered by somebody who is signed in."""
    return document(
        name,
        f"""<main class="narrow"><article class="card"><h1>{escape(name)}</h1>
<p>You are signed in as {escape(who)}. <a href="/">See the air</a>, or enter the code that an app shows you.</p>
{_said(message)}<form method="get" action="/pair"><label for="user_code">The app's code</label>
<input id="user_code" name="user_code" placeholder="XXXX-XXXX" maxlength="16" autocomplete="off" required autofocus>
<button>Continue</button></form></article></main>""",
    )


def decision(name: str, who: str, asking: Asking, form_token: str, message: str = "") -> str:
    """Where an app is approved or refused."""
    options = "".join(
        f'<option value="{escape(scope)}"{" selected" if scope == asking.scopes[-1] else ""}>{escape(scope)}</option>'
        for scope in asking.scopes
    )
    return document(
        name,
        f"""<main class="narrow"><article class="card"><h1>Let this app in?</h1>
<p>An app that calls itself <b>{escape(asking.client)}</b> asks for scope <b>{escape(asking.asked)}</b> of
{escape(name)}. Anybody may call itself so: go on only if it shows you the code
<b><code>{escape(asking.user_code)}</code></b> at this moment.</p>{_said(message)}
<form method="post" action="/pair/decide"><input type="hidden" name="form" value="{escape(form_token)}">
<input type="hidden" name="user_code" value="{escape(asking.user_code)}">
<label for="scope">What it may do</label><select id="scope" name="scope">{options}</select>
<button name="decision" value="approve">Let it in</button> <button name="decision" value="refuse">Refuse</button>
</form><p>Signed in as {escape(who)}.</p></article></main>""",
    )


def done(name: str, words: str) -> str:
    """What became of it."""
    return document(
        name,
        f"""<main class="narrow"><article class="card"><h1>{escape(name)}</h1><p role="status">{escape(words)}</p>
<p><a href="/">See the air</a></p></article></main>""",
    )


def shown(name: str, token: str, scope: str, base: str) -> str:
    """The only page that ever shows a token."""
    config = {"mcpServers": {"ambient-gateway": {"type": "http", "url": f"{base}/mcp"}}}
    config["mcpServers"]["ambient-gateway"] |= {"headers": {"Authorization": f"Bearer {token}"}}  # type: ignore[dict-item]
    return document(
        name,
        f"""<main class="narrow"><article class="card"><h1>Paired</h1>
<p>This browser is signed in. This is its token, of scope {escape(scope)}. It is not shown again:</p>
<pre id="token">{escape(token)}</pre><details><summary>For an assistant that speaks MCP over HTTP</summary>
<pre>{escape(json.dumps(config))}</pre></details><p><a href="/">See the air</a></p></article></main>""",
    )


def _said(message: str) -> str:
    return f'<p class="doubt" role="alert">{escape(message)}</p>' if message else ""

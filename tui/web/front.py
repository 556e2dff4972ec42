"""HTTP: one page, the few files it needs, and the WebSocket. All behind the gate."""

from __future__ import annotations

import html
import logging
from importlib.resources import files
from string import Template

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from lossguard.tui.web.gate import Gate
from lossguard.tui.web.terminal import Terminals

HEADERS = {
    # xterm.js makes style sheets of its own; scripts come from files alone.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
    "style-src 'self' 'unsafe-inline'; img-src data:; font-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "lossguard",
}
_ASSETS = {
    "textual.js": ("textual_serve", "static/js/textual.js", "text/javascript"),
    "xterm.css": ("textual_serve", "static/css/xterm.css", "text/css"),
    "mono.ttf": ("textual_serve", "static/fonts/RobotoMono-VariableFont_wght.ttf", "font/ttf"),
    "page.css": ("lossguard.tui.web", "page.css", "text/css"),
}
_STYLE = "<style>body { background: #101418; color: #e6e6e6; margin: 20vh 10vw }</style>"
_REFUSED = Template(f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>lossguard</title>{_STYLE}</head>
<body><h1>$title</h1><p>$what</p></body></html>
""")
_OPENED = Template(f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>lossguard</title>{_STYLE}
<meta http-equiv="refresh" content="0; url=$place"></head>
<body><p><a href="$place">Opening the dashboard</a></p></body></html>
""")
_NEW_LINK = (
    "Press Ctrl-\\ in the terminal where `lossguard top --web` runs, and open the new link that "
    "it prints. Each link opens the dashboard once, in one browser."
)
_log = logging.getLogger(__name__)


def application(gate: Gate, terminals: Terminals) -> web.Application:
    """The whole front; ends the apps when it is shut down."""
    page = Template(files("lossguard.tui.web").joinpath("page.html").read_text())

    async def enter(request: web.Request) -> web.Response:
        cookie = gate.exchange(request.query.get("token", ""))
        if cookie is None:
            return _refusal(403, "This link is not valid, or was used before", _NEW_LINK)
        # No redirect: browsers follow one without the cookie, where the link was on a foreign page.
        response = _page(_OPENED.substitute(place=gate.place))
        response.set_cookie(
            gate.cookie_name, cookie, path=gate.place, httponly=True, samesite="Strict"
        )
        return response

    async def dashboard(request: web.Request) -> web.Response:
        return _page(page.substitute(socket=html.escape(f"ws://{request.host}{gate.place}ws")))

    async def asset(request: web.Request) -> web.Response:
        package, path, kind = _ASSETS[request.path.removeprefix(gate.place)]
        return web.Response(body=files(package).joinpath(path).read_bytes(), content_type=kind)

    async def hang_up(_: web.Application) -> None:
        await terminals.close()

    app = web.Application(middlewares=[_behind(gate)])
    app.router.add_get("/", enter)
    app.router.add_get(gate.place, dashboard)
    app.router.add_get(f"{gate.place}ws", terminals.serve)
    for name in _ASSETS:
        app.router.add_get(gate.place + name, asset)
    app.on_response_prepare.append(_add_headers)
    app.on_shutdown.append(hang_up)
    return app


def _behind(gate: Gate) -> Middleware:
    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        headers = request.headers
        own = gate.is_own_page(
            headers.getall("Host", []),
            headers.getall("Origin", []),
            socket="Upgrade" in headers,
        )
        if not own:
            return _refusal(
                403, "Not from here", "Open the link that `lossguard top --web` prints."
            )
        if request.method != "GET":
            return _refusal(405, "Not allowed", "This server is only read from.")
        if request.path != "/" and not gate.knows(request.cookies.get(gate.cookie_name, "")):
            return _refusal(403, "This browser was not let in", _NEW_LINK)
        try:
            return await handler(request)
        except web.HTTPException as error:
            return _refusal(error.status, error.reason, error.text or "")
        except Exception:
            _log.exception("a request failed")
            raise

    return check


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


def _page(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="text/html")


def _refusal(status: int, title: str, what: str) -> web.Response:
    return _page(_REFUSED.substitute(title=html.escape(title), what=html.escape(what)), status)

"""Guard: who may ask, and how much they may send. Plain ASGI, before any route.

- the ``Host`` of a server on loopback must be this machine's name: a page of another site can make a browser resolve its
  own name to 127.0.0.1 (DNS rebinding), but then sends that name;
- a browser's request from another site (``Origin``) is refused unless that site was allowed;
- where there are keys, every path wants one: ``Authorization: Bearer``, ``x-api-key``, or the cookie of the login form
  (POST ``/logout`` takes it away);
- a body larger than allowed is refused with 413 before it is read, or as soon as it is; one that stops coming, with 408.
"""

import asyncio
import hmac
from collections.abc import Mapping
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from urllib.parse import SplitResult, parse_qs, urlsplit

from fastapi import HTTPException
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whimbrel.server.dialect import error_response
from whimbrel.server.errors import ApiError, Problem
from whimbrel.server.settings import LOOPBACK, ServerSettings
from whimbrel.server.static import FOLDER

COOKIE = "whimbrel_key"
LOGIN_PATH = "/login"
LOGOUT_PATH = "/logout"
UPLOAD_PATHS = ("/v1/files",)
"""Paths whose bodies are documents: larger, and not kept in memory."""

_SAFE = ("GET", "HEAD", "OPTIONS")

_LOGIN_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser calls the form's origin "null"
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        """Wraps ``app``."""
        self._app = app
        self._settings = settings
        self._cookies = [sha256(b"whimbrel cookie " + key.encode()).hexdigest() for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the module."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            refusal = self._check_site(scope, headers)
            if refusal is None and scope["path"] == LOGIN_PATH and self._settings.api_keys:
                refusal = await self._login(scope, await self._whole_body(headers, receive))
            if refusal is None and (scope["method"], scope["path"]) == ("POST", LOGOUT_PATH):
                refusal = _forget_cookie()
            if refusal is None and not self._has_key(headers):
                refusal = _ask_for_key(scope, headers)
            if refusal is None:
                receive = await self._bounded(scope, headers, receive)
        except ApiError as error:
            refusal = error_response(scope, error.problem)
        await (refusal or self._app)(scope, receive, send)

    # --- where a request comes from

    def _check_site(self, scope: Scope, headers: Mapping[str, str]) -> Response | None:
        host = headers.get("host", "")
        name = _split(f"//{host}").hostname or ""
        if self._settings.on_loopback and name not in {*LOOPBACK, *self._settings.allowed_hosts}:
            message = f"this server is not called {name!r}; ask it as localhost, or start it with --allowed-host {name}"
            return error_response(scope, Problem(status=403, message=message, code="unknown_host"))
        origin = headers.get("origin")
        # A link to the chat page is fine. Other GETs tell another site nothing, but a model may be loaded for them.
        if origin is None and headers.get("sec-fetch-site") == "cross-site" and not _is_link(scope, headers):
            message = "pages of other sites may not use this server"
            return error_response(scope, Problem(status=403, message=message, code="unknown_origin"))
        if origin is None or origin in self._settings.cors_origins or "*" in self._settings.cors_origins:
            return None
        if _split(origin).netloc != host and (scope["method"] not in _SAFE or scope["method"] == "OPTIONS"):
            message = f"pages of {origin} may not use this server; start it with --cors-origin {origin} to allow them"
            return error_response(scope, Problem(status=403, message=message, code="unknown_origin"))
        return None

    # --- keys

    def _has_key(self, headers: Mapping[str, str]) -> bool:
        keys = self._settings.api_keys
        if not keys:
            return True
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        return _matches(given, keys) or _matches(_cookie(headers), self._cookies)

    async def _login(self, scope: Scope, body: bytes) -> Response:
        if scope["method"] != "POST":
            return _login_page(200)
        key = (parse_qs(body.decode("utf-8", "replace")).get("key") or [""])[0]
        for known, cookie in zip(self._settings.api_keys, self._cookies, strict=True):
            if _matches(key, [known]):
                response = RedirectResponse("/", status_code=303)
                response.set_cookie(COOKIE, cookie, httponly=True, samesite="strict", secure=scope["scheme"] == "https")
                return response
        return _login_page(401, wrong=True)

    # --- bodies

    async def _bounded(self, scope: Scope, headers: Mapping[str, str], receive: Receive) -> Receive:
        """``receive`` that gives no more than the limit: of JSON the body as a whole, of documents piece by piece."""
        if scope["method"] in _SAFE:
            return receive
        if scope["path"].rstrip("/") in UPLOAD_PATHS:
            self._check_length(headers, self._settings.max_file)
            return self._counted(receive)
        body = await self._whole_body(headers, receive)
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        return replay

    async def _whole_body(self, headers: Mapping[str, str], receive: Receive) -> bytes:
        limit = self._settings.max_body
        self._check_length(headers, limit)
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await self._next(receive)
            if message["type"] == "http.disconnect":
                raise ApiError(400, "the client went away in the middle of its request")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > limit:
                raise _too_large(limit)
        return b"".join(parts)

    def _counted(self, receive: Receive) -> Receive:
        """For uploads. Raises HTTPException, which the parser of forms lets through."""
        size = 0

        async def next_part() -> Message:
            nonlocal size
            try:
                message = await self._next(receive)
            except ApiError as error:
                raise HTTPException(error.problem.status, error.problem.message) from None
            size += len(message.get("body", b""))
            if size > self._settings.max_file:
                raise HTTPException(413, _too_large(self._settings.max_file).problem.message)
            return message

        return next_part

    def _check_length(self, headers: Mapping[str, str], limit: int) -> None:
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > limit:
            raise _too_large(limit)

    async def _next(self, receive: Receive) -> Message:
        try:
            return await asyncio.wait_for(receive(), self._settings.body_seconds)
        except TimeoutError:
            raise ApiError(408, "the request's body stopped coming; send it again", code="timeout") from None


def _is_link(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Somebody followed a link to the page itself."""
    return (scope["method"], scope["path"]) == ("GET", "/") and headers.get("sec-fetch-mode") == "navigate"


def _login_page(status: int, *, wrong: bool = False) -> Response:
    """A page of its own, the one that is seen without a key: it names no other file."""
    text = (FOLDER / "login.html").read_text(encoding="utf-8")
    return HTMLResponse(text.replace("<html", "<html data-wrong", 1) if wrong else text, status, headers=_LOGIN_HEADERS)


def _forget_cookie() -> Response:
    response = RedirectResponse("/", status_code=303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def _ask_for_key(scope: Scope, headers: Mapping[str, str]) -> Response:
    if scope["path"] == "/" and "text/html" in headers.get("accept", ""):
        return _login_page(401)
    given = "authorization" in headers or "x-api-key" in headers
    message = "that key is not known here" if given else "this server wants a key: send Authorization: Bearer KEY"
    problem = Problem(
        status=401,
        message=message,
        type="authentication_error",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )
    return error_response(scope, problem)


def _matches(given: str, known: list[str] | tuple[str, ...]) -> bool:
    """Compared in constant time, all of them."""
    return bool(sum(hmac.compare_digest(given.encode("utf-8", "replace"), one.encode()) for one in known))


def _split(address: str) -> SplitResult:
    """The parts of an address; empty ones where it is none."""
    try:
        return urlsplit(address)
    except ValueError:  # an open bracket
        return urlsplit("")


def _cookie(headers: Mapping[str, str]) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the request is larger than {limit:,} bytes, the most that is taken", code="too_large")

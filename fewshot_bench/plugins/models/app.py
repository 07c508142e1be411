"""A page that classifies images with a kept model, and the same as an API: `POST /predict`.

`application` is the entry point. Images are request bodies and never stored; only the files of
`FILES`, `/model` and the support pictures of the model can be fetched.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fewshot_bench.images import decode
from fewshot_bench.utils.errors import FsbenchError
from fewshot_bench.utils.text import size_text

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from fewshot_bench.analysis.model import Model

FILES = {
    "/": ("page.html", "text/html"),
    "/script.js": ("script.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
TOP = 10
"""Default number of classes in a response."""
NEAREST = 4
"""Number of training images in a response, if the model holds some."""
AT_ONCE = 2
"""Images decoded concurrently; further requests wait. The model predicts one at a time."""
MOST_PIXELS = 80_000_000
"""Maximum pixels of a decoded image: 240 MB as RGB."""
SURPLUS = 64 * 2**20
"""Bytes beyond the limit that are read and dropped: browsers read a response after sending all."""


def application(
    model: Model, most: int, hosts: Collection[str], complain: Callable[[str], None]
) -> Starlette:
    """Build the page and its API.

    most: largest accepted file in bytes. hosts: accepted host names, beside IP addresses. complain:
    called with the reason when the model fails.
    """
    desk = _Service(model, most, complain)
    folder = Path(__file__).parent / "page"
    routes = [
        Route(path, Response((folder / name).read_bytes(), media_type=kind), methods=["GET"])
        for path, (name, kind) in FILES.items()
    ]
    routes += [
        Route("/model", JSONResponse(desk.about()), methods=["GET"]),
        Route("/predict", desk.predict, methods=["POST"]),
        Route("/support/{number}", desk.picture),
    ]
    made = Starlette(
        routes=routes,
        middleware=[Middleware(_Guard, hosts=frozenset(name.lower() for name in hosts))],
        exception_handlers={HTTPException: _answer_refusal, Exception: _answer_failure},
    )
    made.router.redirect_slashes = False
    return made


def _answer_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    usual = {404: "there is nothing at this address", 405: "this address takes another method"}
    text = usual.get(error.status_code, error.detail)
    return JSONResponse({"error": text}, error.status_code, error.headers)


def _answer_failure(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "something went wrong; the terminal of fsbench says what"}, 500)


@dataclass(frozen=True)
class _Guard:
    """Middleware that refuses foreign host names and, for POST, foreign origins."""

    app: ASGIApp
    hosts: frozenset[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; adds `HEADERS`, which isolate the page, to the response."""
        begun = False

        async def send_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        problem = self._problem(scope["method"], Headers(scope=scope))
        answer = JSONResponse({"error": problem}, 403) if problem else self.app
        try:
            await answer(scope, receive, send_headers)
        except asyncio.CancelledError:
            # The server stops; uvicorn would print a traceback for a request without an answer.
            if not begun:
                stopped = JSONResponse({"error": "fsbench app was stopped"}, 503)
                await stopped(scope, receive, send_headers)

    def _problem(self, method: str, headers: Headers) -> str:
        host, origin = headers.get("host", ""), headers.get("origin")
        # DNS rebinding: a foreign page may point its host name here; IP addresses are safe.
        try:
            name = urlsplit(f"//{host}").hostname or ""
            ours = name in self.hosts or bool(ipaddress.ip_address(name))
        except ValueError:
            ours = False
        if not ours:
            return f"this server is not named {host!r:.80}; use the address that fsbench printed"
        if method == "POST" and origin is not None and origin.partition("://")[2] != host:
            return f"the page at {origin!r:.80} may not ask this server; open the server's own page"
        return ""


@dataclass(frozen=True)
class _Service:
    model: Model
    most: int
    complain: Callable[[str], None]
    places: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(AT_ONCE))

    def about(self) -> dict[str, Any]:
        """Facts that the page shows."""
        config = self.model.config
        return {
            "method": config.method,
            "backbone": config.backbone,
            "classes": list(config.classnames),
            "reject": config.reject,
            "most": self.most,
            "limit": size_text(self.most),
            "support": len(self.model.support.pictures) if self.model.support else 0,
        }

    def picture(self, request: Request) -> Response:
        """A training image of the model, by its number."""
        support, number = self.model.support, request.path_params["number"]
        pictures = support.pictures if support else ()
        if number not in map(str, range(len(pictures))):
            raise HTTPException(404)
        return Response(pictures[int(number)], media_type="image/jpeg")

    async def predict(self, request: Request) -> Response:
        """Classes of the image in the body, the most probable first."""
        top = request.query_params.get("top", str(TOP))
        if not (top.isascii() and top.isdigit() and int(top[:9]) > 0):
            raise HTTPException(400, "top: expected a whole number from 1")
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise HTTPException(
                415, "a form came; send the file itself: curl --data-binary @photo.jpg"
            )
        data = await self._body(request)
        return JSONResponse(await run_in_threadpool(self._answer, data, int(top[:9])))

    async def _body(self, request: Request) -> bytes:
        parts, size = [], 0
        try:
            async for part in request.stream():
                size += len(part)
                if size <= self.most:
                    parts.append(part)
                elif size > self.most + SURPLUS:
                    break
                else:
                    parts.clear()
        except ClientDisconnect:
            raise HTTPException(400, "the file did not come whole") from None
        if size > self.most:
            raise HTTPException(
                413,
                f"the file has more than {size_text(self.most)}; choose a smaller one, or start "
                "fsbench app with a larger --max-size",
                {"Connection": "close"},
            )
        if not size:
            raise HTTPException(400, "the file is empty; send an image as the body of the request")
        return b"".join(parts)

    def _answer(self, data: bytes, top: int) -> dict[str, Any]:
        with self.places:
            image = open_image(data)
            try:
                (prediction,) = self.model.stream([image], top=top)
                near = {} if prediction.problem else self._find_nearest(image)
            except FsbenchError as error:
                self.complain(str(error))
                raise HTTPException(500, "the model did not answer; see the terminal") from None
        if prediction.problem:
            raise HTTPException(415, f"the image cannot be used: {prediction.problem}")
        pairs = zip(prediction.classes, prediction.probabilities, strict=True)
        classes = [{"class": name, "probability": share} for name, share in pairs]
        return {"rejected": prediction.rejected, "classes": classes, **near}

    def _find_nearest(self, image: Image.Image) -> dict[str, Any]:
        if self.model.support is None:
            return {}
        (near,) = self.model.nearest([image], count=NEAREST)
        keys = ("class", "similarity", "image")
        rows = ((each.classname, each.similarity, f"/support/{each.number}") for each in near)
        return {"nearest": [dict(zip(keys, row, strict=True)) for row in rows]}


def open_image(data: bytes) -> Image.Image:
    """Decode an image file; HTTPException with the reason if that is not possible.

    No more than MOST_PIXELS are decoded.
    """
    pixels = 0
    with suppress(Exception):
        # What else is wrong with it is found below.
        pixels = math.prod(decode.open_image(data).size)
    if pixels > MOST_PIXELS:
        raise HTTPException(400, f"the image has more than {MOST_PIXELS:,} pixels; scale it down")
    image = decode.decode_or_explain(data)
    if isinstance(image, str):
        raise HTTPException(415, f"the image cannot be used: {image}")
    return image

"""Serves the built page at `/playground/`, and tells browsers to load nothing from anywhere else."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, FastAPI
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

PATH = "/playground"
DIST = Path(__file__).parent / "dist"

HEADERS = {
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
FOREVER = "public, max-age=31536000, immutable"
"""For what has a hash of its content in its name."""

router = APIRouter()


@router.get(PATH, include_in_schema=False)
async def to_the_page() -> Response:
    """The page's addresses are relative to the slash, so that they hold behind a proxy's prefix too."""
    return RedirectResponse(f"{PATH[1:]}/", status_code=308)


class PlaygroundFiles(StaticFiles):
    """The built files. `index.html` is asked for anew each time: after an upgrade it names other files."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        response.headers["Cache-Control"] = FOREVER if path.startswith("assets/") else "no-cache"
        return response


def add_playground(app: FastAPI) -> None:
    app.include_router(router)
    app.mount(PATH, PlaygroundFiles(directory=DIST, html=True), name="playground")

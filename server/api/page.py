"""GET /: the playground, a page that uses nothing but the public API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response

from server.playground import Asset, read_assets

ASSETS = read_assets()
"""By path. They hold no secrets and are served without a key: the page asks for one itself."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Nothing from elsewhere, nothing inline, no text that a script makes markup or code of; nobody may frame the page."""

router = APIRouter(include_in_schema=False)


def _route(asset: Asset) -> Callable[[Request], Awaitable[Response]]:
    headers = {
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "public, max-age=31536000, immutable" if asset.lasting else "no-cache",
    }

    async def answer(_: Request) -> Response:
        return Response(asset.content, media_type=asset.media_type, headers=headers)

    return answer


for _path, _asset in ASSETS.items():
    router.add_api_route(_path, _route(_asset), methods=["GET", "HEAD"], response_model=None)

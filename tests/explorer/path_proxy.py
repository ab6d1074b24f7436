"""A proxy that serves an app under a path: `path_proxy.py UPSTREAM PATH`."""

import socket
import sys

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route


def main(upstream: str, path: str) -> None:
    """Serve at a free port, which is printed."""
    client = httpx.AsyncClient(timeout=60)

    async def forward(request: Request) -> StreamingResponse:
        target = f"{upstream}{request.url.path.removeprefix(path)}?{request.url.query}"
        headers = {name: text for name, text in request.headers.items() if name != "accept-encoding"}
        asked = client.build_request(request.method, target, headers=headers, content=await request.body())
        answer = await client.send(asked, stream=True)
        kept = {name: text for name, text in answer.headers.items() if name != "transfer-encoding"}
        end = BackgroundTask(answer.aclose)
        return StreamingResponse(answer.aiter_raw(), answer.status_code, kept, background=end)

    app = Starlette(routes=[Route(path + "{rest:path}", forward, methods=["GET", "POST", "HEAD"])])
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listening])


if __name__ == "__main__":
    main(*sys.argv[1:])

"""REST from the same service methods that gRPC serves.

The one idea: **a route is compiled once.** Where each field of the request comes from (path, query, header, body,
token), how the JSON is decoded and checked, who may call and how long it may take all follow from the method's
declaration. They are worked out when the front is built; a request then runs through one typed decode, one call and one
encode.

    front = HttpFront([(Orders, orders), (Users, users_client)], authenticator=authenticator, title="Shop", version="1")
    server = HttpServer(front, "127.0.0.1", 8080)
    port = await server.start()
    ...
    front.drain()               # /readyz says no
    await server.stop(grace_s=10)

Targets are local service objects or remote clients: both have the same methods. Every error is a problem document (RFC
9457) with a stable `code`, and names the field and the reason when a field is to blame. `/docs` shows the contract in
Swagger UI without a network.

What it does not do: TLS and compression (a proxy's work, which also adds HSTS), cookies, WebSockets, file uploads.
`HttpFront` is a plain ASGI app, so it runs under any server; `HttpServer` is the one we measured best.
"""

from dougong.http.address import Proxies
from dougong.http.asgi import AsgiApp
from dougong.http.binding import Binder
from dougong.http.cors import Cors
from dougong.http.files import File
from dougong.http.front import HttpFront
from dougong.http.health import Check
from dougong.http.problem import FieldFault, Problem
from dougong.http.server import HttpServer

__all__ = ["AsgiApp", "Binder", "Check", "Cors", "FieldFault", "File", "HttpFront", "HttpServer", "Problem", "Proxies"]

"""`python -m shop.provider`: the provider as a process. Prints its URL once it listens."""

from __future__ import annotations

import argparse
import asyncio
import signal

from shop.provider._web import Provider, serving

__all__: list[str] = []


async def _serve(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(Provider(arguments.key, arguments.webhook_secret), port=arguments.port) as provider:
        print(provider.url, flush=True)  # noqa: T201 (for whoever started it)
        await stop.wait()


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m shop.provider", description="A payment provider, played.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--key", default="test-key", help="the shop's API key")
    parser.add_argument("--webhook-secret", default="test-secret", help="what webhooks are signed with")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()

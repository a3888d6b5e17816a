"""Guest images over HTTP, from the machine to the hosts, with ranges (RFC 9110, section 14) so downloads resume."""

from __future__ import annotations

import argparse
from pathlib import Path

from aiohttp import web


def application(directory: Path) -> web.Application:
    """Give an application that serves a folder's files; aiohttp's file answers know Range and If-Range."""
    app = web.Application()
    app.router.add_static("/", directory)
    return app


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bind", required=True, help="address to listen on")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    arguments = parser.parse_args()
    web.run_app(application(arguments.directory), host=arguments.bind, port=arguments.port, print=None)


if __name__ == "__main__":
    main()

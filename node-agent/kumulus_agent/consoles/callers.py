"""Who may ask for a console: the console proxy, with a token that is good at this host alone."""

from __future__ import annotations

from dataclasses import dataclass

from kumulus_runtime.api_client import TOKENREVIEW, KubeClient


class Refused(Exception):
    """The caller proves nothing that counts here."""


def audience_of(host: str) -> str:
    """Give the audience of tokens for a host's consoles: what one host is shown opens nothing at another."""
    return f"kumulus-console/{host}"


@dataclass(frozen=True, slots=True)
class Callers:
    """Judges callers by the API server's word.

    Attributes:
        client: to reach the API server.
        host: this host.
        user: the proxy's user name.
    """

    client: KubeClient
    host: str
    user: str

    async def check(self, authorization: str) -> None:
        """Let the proxy pass.

        Args:
            authorization: the header.

        Raises:
            Refused: somebody else asks.
            ApiError: the API server cannot be asked.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Refused("a token of the console proxy is needed")
        audience = audience_of(self.host)
        spec = {"token": token.strip(), "audiences": [audience]}
        review = await self.client.create(TOKENREVIEW, {"metadata": {}, "spec": spec})
        status = review.get("status") or {}
        if not status.get("authenticated") or audience not in (status.get("audiences") or []):
            raise Refused(f"the token is not good for the consoles of host {self.host}")
        if (status.get("user") or {}).get("username") != self.user:
            raise Refused("consoles are served to the console proxy alone")

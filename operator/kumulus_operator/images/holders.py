"""Which hosts say that they keep which images."""

from __future__ import annotations

from collections import defaultdict

from kumulus_api import Host
from kumulus_operator.views import Key


class Holders:
    """An index over the status of all Hosts."""

    def __init__(self) -> None:
        self._of_host: dict[str, dict[Key, frozenset[str]]] = {}
        self._of_image: dict[Key, set[str]] = defaultdict(set)

    def see(self, name: str, host: Host | None) -> set[Key]:
        """Take a Host as seen, or that it is gone; give the images of which it says something else than before."""
        status = host.status if host is not None else None
        told: dict[Key, set[str]] = defaultdict(set)
        for item in status.images if status is not None else ():
            told[item.namespace, item.name].add(item.digest)
        now = {key: frozenset(digests) for key, digests in told.items()}
        before = self._of_host.pop(name, {})
        if now:
            self._of_host[name] = now
        for key in before.keys() - now.keys():
            self._of_image[key].discard(name)
            if not self._of_image[key]:
                del self._of_image[key]
        for key in now:
            self._of_image[key].add(name)
        return {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}

    def of(self, image: Key, digest: str | None = None) -> set[str]:
        """Give the hosts that keep an image, or of it these bytes."""
        hosts = self._of_image.get(image, set())
        return {name for name in hosts if digest is None or digest in self._of_host[name][image]}

    def count(self, host: str) -> int:
        """Give how many images a host keeps."""
        return len(self._of_host.get(host, {}))

"""Certificates of load balancers: the operator hands them to their host, where files keep them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from kumulus_agent.load_balancers.haproxy_config import Files
from kumulus_agent.network.errors import NetworkError
from kumulus_agent.servers.boot_data import BootDataSource, fetch_certificates
from kumulus_agent.servers.errors import StepFailed
from kumulus_api.load_balancer import AssignedListener
from kumulus_runtime.api_client import KubeClient


class CertificatesMissing(NetworkError):
    """Certificates could not be had: listeners serve with the former ones, and those without any not at all."""


class CertificateSource:
    """Asks the operator.

    Args:
        client: to reach the API server, which tells whom to trust.
        source: where to ask.
    """

    def __init__(self, client: KubeClient, source: BootDataSource) -> None:
        self._client = client
        self._source = source

    async def fetch(self, namespace: str, name: str) -> dict[str, str]:
        """Give certificate and key of each listener of a load balancer, as PEM.

        Raises:
            CertificatesMissing: the operator does not give them, or cannot be asked now.
        """
        try:
            return await fetch_certificates(self._client, self._source, (namespace, name))
        except StepFailed as error:
            raise CertificatesMissing(str(error)) from error


def lacking(listeners: Iterable[AssignedListener], files: Files) -> list[str]:
    """Give the names of the listeners whose certificate is not there in its present version."""
    return [item.name for item in listeners if item.tls is not None and not _file(item, files).exists()]


def store(listeners: Iterable[AssignedListener], files: Files, pems: Mapping[str, str]) -> None:
    """Write certificates for nobody else to read."""
    files.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for listener in listeners:
        pem = pems.get(listener.name)
        if listener.tls is not None and pem is not None:
            target = _file(listener, files)
            draft = target.with_suffix(".draft")
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(pem)
            draft.rename(target)


def there(listeners: Iterable[AssignedListener], files: Files) -> dict[str, Path]:
    """Give the file of each listener's certificate: of its present version, else of a former one."""
    found = {}
    for listener in listeners:
        if listener.tls is None:
            continue
        exact = _file(listener, files)
        former = sorted(files.directory.glob(f"tls.{listener.name}.*.pem"))
        if exact.exists() or former:
            found[listener.name] = exact if exact.exists() else former[-1]
    return found


def forget_others(files: Files, kept: Iterable[Path]) -> None:
    """Remove the certificates that nothing serves any more."""
    for file in set(files.directory.glob("tls.*")) - set(kept):
        file.unlink()


def _file(listener: AssignedListener, files: Files) -> Path:
    return files.directory / f"tls.{listener.name}.{listener.certificate_version or '0'}.pem"

"""Settings of the console proxy."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from kumulus_runtime.settings import BaseProcessSettings


class ConsoleSettings(BaseProcessSettings):
    """What an administrator may choose; environment variables begin with `KUMULUS_`."""

    pod: str = ""
    """Name of the pod that the process runs in; sessions are marked with it."""
    port: int = Field(default=8443, ge=0, le=65535)
    """Where consoles are served over TLS."""
    http_port: int = Field(default=0, ge=0, le=65535)
    """Where they are served without TLS, behind something that ends it, such as an Ingress; 0 for nowhere."""
    url: str = Field(default="", pattern=r"^(https?://[^\s#?]+)?$")
    """Where browsers reach the proxy; what `kubectl kumulus vnc` prints begins with it."""
    service: str = "kumulus-console"
    """Name of the Service, for which the certificate is made out."""
    service_account: str = "kumulus-console"
    """The proxy's ServiceAccount in the system namespace, as which it calls agents."""
    certificate_dir: Path | None = None
    """Directory with `tls.crt` and `tls.key`; without it the process makes a certificate of its own."""
    novnc_dir: Path = Path("/usr/share/novnc")
    """noVNC's files."""

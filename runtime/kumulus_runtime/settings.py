"""What both processes can be told; each adds its own fields in a subclass."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class BaseProcessSettings(BaseSettings):
    """Read once in ``main`` from the environment (``KUMULUS_`` + field name) and passed down."""

    model_config = SettingsConfigDict(env_prefix="KUMULUS_", frozen=True, extra="ignore", use_attribute_docstrings=True)

    log_format: Literal["json", "console"] = "json"
    """Log lines as JSON objects, or coloured for people."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level that is written."""

    metrics_port: int = Field(default=8080, ge=0, le=65535)
    """TCP port of /metrics, /healthz and /readyz; 0 takes any free one."""

    system_namespace: str = "kumulus-system"
    """Namespace of the Leases and of our own pods."""

    shutdown_seconds: float = Field(default=25.0, gt=0)
    """How long a graceful stop may take; shorter than the pod's terminationGracePeriodSeconds."""

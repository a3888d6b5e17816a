"""What both processes can be told; each adds its own fields in a subclass."""

from typing import Literal, Self

from pydantic import Field, ValidationError
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

    @classmethod
    def read(cls, program: str) -> Self:
        """Read the settings from the environment and the command line, of which the latter wins.

        Args:
            program: its name; `--help` shows it with all settings and ends the process.

        Raises:
            SystemExit: a value cannot be; standard error names the setting, its value and what is wrong with it.
        """
        try:
            return cls(_cli_parse_args=True, _cli_kebab_case=True, _cli_prog_name=program)
        except ValidationError as error:
            faults = (f"{'.'.join(map(str, e['loc']))}={e['input']!r}: {e['msg']}" for e in error.errors())
            raise SystemExit(f"{program}: setting {'; '.join(faults)}") from None

"""Where the API server is and who we are: KUBECONFIG, else the pod's service account.

Credentials that live in files are read again every minute, because a pod's token expires after an hour and is
replaced in its file.
"""

import os
import time
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config.config_exception import ConfigException
from kubernetes.aio.config.incluster_config import load_incluster_config
from kubernetes.aio.config.kube_config import KubeConfigLoader, KubeConfigMerger

REFRESH_SECONDS = 60.0
_DEFAULT_KUBECONFIG = Path("~/.kube/config")


class NoCluster(Exception):
    """Neither a kubeconfig nor a service account was found, or it cannot be used."""


class _KubeconfigRefresh:
    """Re-reads the credentials of a kubeconfig: token files change, exec plugins have an expiry."""

    def __init__(self, loader: KubeConfigLoader) -> None:
        self._loader = loader
        self.read_at = time.monotonic()

    async def __call__(self, configuration: Configuration) -> None:
        if time.monotonic() - self.read_at < REFRESH_SECONDS:
            return
        await self._loader.load_and_set(configuration)  # type: ignore[no-untyped-call]
        self.read_at = time.monotonic()


def kubeconfig_paths() -> str | None:
    """The value for a kubeconfig loader: KUBECONFIG, else ``~/.kube/config`` outside a pod, else None."""
    named = os.environ.get("KUBECONFIG")
    if named:
        return named
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return None
    default = _DEFAULT_KUBECONFIG.expanduser()
    return str(default) if default.exists() else None


async def load_configuration() -> Configuration:
    """Read address, trust and credentials.

    Returns:
        A configuration whose ``auth_settings()`` always gives a current token.

    Raises:
        NoCluster: nothing usable was found; the text says what was looked for.
    """
    configuration = Configuration()
    # Each watch holds a connection for good: a limit would let many of them keep the rest waiting for ever.
    configuration.connection_pool_maxsize = 0
    paths = kubeconfig_paths()
    try:
        if paths is None:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            return _with_proxy(configuration)
        merged = KubeConfigMerger(paths).config  # type: ignore[no-untyped-call]
        if merged is None:
            raise NoCluster(f"KUBECONFIG names {paths!r}, but no such file exists: correct or unset it")
        loader = KubeConfigLoader(config_dict=merged, config_base_path=None)  # type: ignore[no-untyped-call]
        await loader.load_and_set(configuration)  # type: ignore[no-untyped-call]
    except ConfigException as error:
        where = f"kubeconfig {paths}" if paths else "the pod's service account"
        raise NoCluster(f"cannot connect with {where}: {error}. Set KUBECONFIG to a valid file") from error
    configuration.refresh_api_key_hook = _KubeconfigRefresh(loader)  # type: ignore[assignment]
    return _with_proxy(configuration)


def _with_proxy(configuration: Configuration) -> Configuration:
    """Take the proxy from the environment once.

    Left to itself aiohttp asks the environment and ~/.netrc anew at each request, in two threads, which costs more than
    the request.
    """
    configuration.client_session_kwargs = {"trust_env": False}
    if configuration.proxy is None:
        configuration.proxy = environment_proxy(configuration.host)
    return configuration


def environment_proxy(url: str) -> str | None:
    """Give the proxy that HTTPS_PROXY and its like name for a URL, unless NO_PROXY excepts its host."""
    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)


async def authorization_header(configuration: Configuration) -> dict[str, str]:
    """The header that carries the credentials, or nothing for client certificates."""
    settings = await configuration.auth_settings()
    bearer = settings.get("BearerToken")
    if not bearer or not bearer["value"]:
        return {}
    return {"Authorization": bearer["value"]}


async def reload_credentials(configuration: Configuration) -> None:
    """Read the credentials again now, because the API server answered 401."""
    fresh = await load_configuration()
    configuration.api_key = fresh.api_key
    configuration.refresh_api_key_hook = fresh.refresh_api_key_hook

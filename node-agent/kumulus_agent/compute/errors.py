"""Errors of the hypervisor.

::

    HypervisorError
    ├── Retryable                 try again after .delay seconds
    │   └── HypervisorUnavailable libvirtd is down or restarting
    └── Terminal                  the same request fails again; .reason is CamelCase for a condition
        ├── InvalidDomain         libvirt or QEMU refuses the XML
        └── InstanceNotFound      no domain of that instance
"""

from __future__ import annotations

import libvirt


class HypervisorError(Exception):
    """Anything libvirt refused or could not do."""


class Retryable(HypervisorError):
    """May succeed after ``delay`` seconds without anybody changing a thing."""

    def __init__(self, message: str, delay: float = 2.0) -> None:
        super().__init__(message)
        self.delay = delay


class HypervisorUnavailable(Retryable):
    """There is no working connection to libvirtd."""


class Terminal(HypervisorError):
    """Fails again until the request or the host changes; ``reason`` is fit for a condition."""

    reason = "HypervisorRefused"


class InvalidDomain(Terminal):
    """The domain's XML is refused."""

    reason = "InvalidDomain"


class InstanceNotFound(Terminal):
    """libvirt knows no domain of the instance."""

    reason = "InstanceNotFound"


_UNAVAILABLE = {
    libvirt.VIR_ERR_NO_CONNECT,
    libvirt.VIR_ERR_INVALID_CONN,
    libvirt.VIR_ERR_RPC,
    libvirt.VIR_ERR_SYSTEM_ERROR,
}
_INVALID = {
    libvirt.VIR_ERR_XML_ERROR,
    libvirt.VIR_ERR_XML_DETAIL,
    libvirt.VIR_ERR_XML_INVALID_SCHEMA,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    libvirt.VIR_ERR_INVALID_ARG,
    libvirt.VIR_ERR_NO_SUPPORT,
}
_REFUSED = {libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_ERR_AUTH_UNAVAILABLE, libvirt.VIR_ERR_ACCESS_DENIED}


def translate(error: libvirt.libvirtError, asked: str) -> HypervisorError:
    """Turn libvirt's error into ours.

    Args:
        error: as raised by the binding.
        asked: what was tried, for the message: ``"start instance 3f2…"``.

    Returns:
        The error to raise ``from`` libvirt's. Unknown codes are retryable: a host recovers more often than it does not.
    """
    message = f"{asked}: libvirt says: {error.get_error_message() or error}"
    code = error.get_error_code()
    # The RPC layer of libvirt's client reports a dead socket under several codes; its domain is the reliable sign.
    if code in _UNAVAILABLE or error.get_error_domain() == libvirt.VIR_FROM_RPC:
        return HypervisorUnavailable(message, delay=1.0)
    if code == libvirt.VIR_ERR_NO_DOMAIN:
        return InstanceNotFound(message)
    if code in _INVALID:
        return InvalidDomain(message)
    if code in _REFUSED:
        return Terminal(message)
    return Retryable(message)

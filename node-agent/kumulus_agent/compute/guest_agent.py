"""Blocking verbs that ask the agent inside a guest (qemu-guest-agent); they raise libvirtError.

The agent is the guest's: it may be silent, lie, or say too much. libvirt bounds the size of an answer (10 MiB).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final

import libvirt

from kumulus_agent.compute.devices_xml import AGENT_CHANNEL
from kumulus_agent.compute.elements import parse

_SECONDS: Final = 10
"""The same for whoever asks: it is a property of the domain, and a freeze may be waiting for its answer."""
_ANSWERS: Final = frozenset({libvirt.VIR_ERR_INTERNAL_ERROR, getattr(libvirt, "VIR_ERR_AGENT_COMMAND_FAILED", None)})
"""As what libvirt gives back a guest agent's own error; a newer one knows a code for it."""
_SILENCE: Final = frozenset(
    {
        libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
        libvirt.VIR_ERR_AGENT_UNSYNCED,
        getattr(libvirt, "VIR_ERR_AGENT_COMMAND_TIMEOUT", libvirt.VIR_ERR_AGENT_UNRESPONSIVE),
    }
)
_ASKED: Final = (
    libvirt.VIR_DOMAIN_GUEST_INFO_OS,
    libvirt.VIR_DOMAIN_GUEST_INFO_HOSTNAME,
    getattr(libvirt, "VIR_DOMAIN_GUEST_INFO_INTERFACES", 64),
)


class Answer(Enum):
    """What came of asking a guest for an act."""

    DONE = "done"
    ABSENT = "no guest agent is there"
    SILENT = "it does not answer"
    REFUSED = "it has answered with an error"
    FROZEN = "its file systems may stand still"
    NOT_RUNNING = "the guest does not run"


_UNANSWERED: Final = {
    **dict.fromkeys(_SILENCE, Answer.SILENT),
    libvirt.VIR_ERR_OPERATION_INVALID: Answer.NOT_RUNNING,
}


@dataclass(frozen=True, slots=True)
class Said:
    """What a guest agent has said.

    Attributes:
        macs: of the NICs that the guest was given.
        values: libvirt's names and values, as of `virDomainGetGuestInfo`; empty if it does not answer.
    """

    macs: frozenset[str] = frozenset()
    values: dict[str, Any] = field(default_factory=dict)


def be_patient(domain: Any) -> None:
    """Set for how long an answer is waited for: libvirt's own patience has no end."""
    domain.agentSetResponseTimeout(_SECONDS, 0)


def is_answer(error: libvirt.libvirtError) -> bool:
    """Give whether an error is what a guest agent has said."""
    return error.get_error_domain() == libvirt.VIR_FROM_QEMU and error.get_error_code() in _ANSWERS


def has_agent(xml: str) -> bool:
    """Give whether a guest has opened its end of the agent's channel."""
    channels = parse(xml).findall("devices/channel/target")
    return any(item.get("name") == AGENT_CHANNEL and item.get("state") == "connected" for item in channels)


def ask_guest(domain: Any, owed: Path) -> Said | None:
    """Ask a guest who it is.

    Args:
        domain: which.
        owed: as of `begin_backup`: a guest that may be frozen is not asked.

    Returns:
        What it says; None if it cannot be asked now.
    """
    xml = str(domain.XMLDesc())
    if owed.exists() or domain.state()[0] != libvirt.VIR_DOMAIN_RUNNING or not has_agent(xml):
        return None
    be_patient(domain)
    values: dict[str, Any] = {}
    for kind in _ASKED:  # one by one: an agent may know some of it only
        try:
            values |= domain.guestInfo(kind, 0)
        except UnicodeDecodeError:
            continue
        except libvirt.libvirtError as error:
            if error.get_error_code() in _SILENCE:
                break
            if error.get_error_domain() == libvirt.VIR_FROM_RPC:
                raise
    macs = (str(item.get("address")).lower() for item in parse(xml).findall("devices/interface/mac"))
    return Said(frozenset(macs), values)


def set_password(domain: Any, user: str, password: str, owed: Path) -> Answer:
    """Have a guest set a user's password; nothing of what it answers is passed on, for it may quote the password.

    Args:
        domain: which.
        user: a user of the guest.
        password: in clear.
        owed: as of `begin_backup`.
    """
    if domain.state()[0] != libvirt.VIR_DOMAIN_RUNNING:
        return Answer.NOT_RUNNING
    if not has_agent(str(domain.XMLDesc())):
        return Answer.ABSENT
    if owed.exists():
        return Answer.FROZEN
    try:
        be_patient(domain)
        domain.setUserPassword(user, password, 0)
    except libvirt.libvirtError as error:
        answer = Answer.REFUSED if is_answer(error) else _UNANSWERED.get(error.get_error_code())
        if answer is None:
            raise
        return answer
    return Answer.DONE

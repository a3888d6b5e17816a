"""What charon is told of a router's tunnels (pure): strongswan.conf(5), swanctl.conf(5).

Nothing is quoted: of what users write only words come in that need no quotes, and connections go by vici, which has
none. Keys are never in a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2s
from pathlib import Path
from typing import Any

from kumulus_api.vpn_connection import (
    DHGroup,
    DPDAction,
    IKEVersion,
    VPNConnectionAssignment,
    VPNEncryption,
    VPNInitiator,
    VPNIntegrity,
)

DEVICE = "ipsec0"
"""Where charon takes packets that it encrypts, and gives those that it has decrypted."""
ROUTES = 220
"""Its routing table, and the preference of the rule that asks it before all others: charon's own, and only where it
runs."""
_CIPHERS = {
    VPNEncryption.AES128: "aes128",
    VPNEncryption.AES192: "aes192",
    VPNEncryption.AES256: "aes256",
    VPNEncryption.AES128_GCM: "aes128gcm16",
    VPNEncryption.AES256_GCM: "aes256gcm16",
}
_COMBINED = {VPNEncryption.AES128_GCM, VPNEncryption.AES256_GCM}
_HASHES = {VPNIntegrity.SHA256: "sha256", VPNIntegrity.SHA384: "sha384", VPNIntegrity.SHA512: "sha512"}
_GROUPS = {
    DHGroup.GROUP_14: "modp2048",
    DHGroup.GROUP_15: "modp3072",
    DHGroup.GROUP_16: "modp4096",
    DHGroup.GROUP_19: "ecp256",
    DHGroup.GROUP_20: "ecp384",
    DHGroup.GROUP_21: "ecp521",
    DHGroup.GROUP_31: "curve25519",
}
_PLUGINS = (
    "random", "nonce", "openssl", "kdf", "kernel-libipsec", "kernel-netlink", "socket-default", "error-notify", "vici",
)  # fmt: skip
_PORTION = 0.9
"""Of a lifetime: new keys are agreed on then."""


@dataclass(frozen=True)
class Files:
    """Where a charon has its files; nobody but root looks in there."""

    directory: Path

    @property
    def config(self) -> Path:
        """What it reads at its start."""
        return self.directory / "strongswan.conf"

    @property
    def socket(self) -> Path:
        """Where it is told what to do."""
        return self.directory / "vici"

    @property
    def alerts(self) -> Path:
        """Where it says why something failed."""
        return self.directory / "alerts"

    def argv(self) -> tuple[str, ...]:
        """Give the command line; its namespace is chosen by who starts it."""
        return ("env", f"STRONGSWAN_CONF={self.config}", "charon-systemd")


@dataclass(frozen=True)
class Tunnel:
    """A connection as charon is to have it.

    Attributes:
        namespace: of the VPNConnection.
        name: of the VPNConnection.
        terms: what was decided.
    """

    namespace: str
    name: str
    terms: VPNConnectionAssignment

    @property
    def stem(self) -> str:
        """What its connections are called whatever they say."""
        return f"c{_digest([self.namespace, self.name])}"

    @property
    def label(self) -> str:
        """Its connection: another name for another content or key, so that what is loaded is known by its name."""
        return f"{self.stem}-{_digest([self.terms.psk_version, connection(self)])}"

    @property
    def key_label(self) -> str:
        """Its key, likewise."""
        terms = self.terms
        return f"{self.stem}-{_digest([terms.psk_version, terms.local_id, terms.peer_id])}"

    @property
    def begins(self) -> bool:
        """Whether this end connects by itself."""
        return self.terms.initiator is VPNInitiator.BIDIRECTIONAL

    @property
    def children(self) -> tuple[str, ...]:
        """The names of the pairs of networks that packets pass between."""
        return tuple(_children(self.terms))


def settings(files: Files, mtu: int) -> str:
    """Give the text of strongswan.conf.

    Args:
        files: of this charon.
        mtu: of the routes to peers' networks, bytes.
    """
    lines = [
        "charon-systemd {",
        f"    load = {' '.join(_PLUGINS)}",
        "    install_virtual_ip = no",
        f"    routing_table = {ROUTES}",
        f"    routing_table_prio = {ROUTES}",
        "    retransmit_timeout = 2.0",
        "    retransmit_base = 1.6",
        "    retransmit_tries = 5",
        "    plugins {",
        "        kernel-netlink {",
        f"            mtu = {mtu}",
        "        }",
        "        error-notify {",
        f"            socket = unix://{files.alerts}",
        "        }",
        "        vici {",
        f"            socket = unix://{files.socket}",
        "        }",
        "    }",
        "    journal {",
        "        default = 0",
        "        ike = 1",
        "    }",
        "}",
        "",
    ]
    return "\n".join(lines)


def least_mtu(tunnels: Iterable[Tunnel]) -> int:
    """Give the MTU that all of a router's tunnels bear."""
    return min(tunnel.terms.mtu for tunnel in tunnels)


def connection(tunnel: Tunnel) -> dict[str, Any]:
    """Give a connection as vici's load-conn takes it, without its name."""
    terms = tunnel.terms
    dpd = terms.dpd
    watched = dpd.action is not DPDAction.DISABLED
    lifetime = terms.ike.lifetime_seconds
    timeout = {"dpd_timeout": f"{dpd.timeout_seconds}s"} if watched and terms.ike.version is IKEVersion.IKE_V1 else {}
    return {
        "version": "2" if terms.ike.version is IKEVersion.IKE_V2 else "1",
        "local_addrs": [terms.local_address],
        "remote_addrs": [terms.peer_address],
        "proposals": [_ike_proposal(terms)],
        "unique": "replace",
        # It would tell the peer of all addresses of the router.
        "mobike": "no",
        "rekey_time": f"{int(lifetime * _PORTION)}s",
        "over_time": f"{lifetime - int(lifetime * _PORTION)}s",
        "dpd_delay": f"{dpd.interval_seconds if watched else 0}s",
        **timeout,
        "local": {"auth": "psk", "id": terms.local_id},
        "remote": {"auth": "psk", "id": terms.peer_id},
        "children": {name: _child(tunnel, local, remote) for name, (local, remote) in sorted(_children(terms).items())},
    }


def secret(tunnel: Tunnel, key: bytes) -> dict[str, Any]:
    """Give a key as vici's load-shared takes it."""
    return {
        "id": tunnel.key_label,
        "type": "IKE",
        "data": key,
        "owners": sorted({tunnel.terms.local_id, tunnel.terms.peer_id}),
    }


def _children(terms: VPNConnectionAssignment) -> dict[str, tuple[list[str], list[str]]]:
    if terms.ike.version is IKEVersion.IKE_V2:
        return {"net": (terms.local_subnets, terms.peer_cidrs)}
    # IKEv1 knows one network at each end.
    pairs = [(local, remote) for local in terms.local_subnets for remote in terms.peer_cidrs]
    return {f"net{number}": ([local], [remote]) for number, (local, remote) in enumerate(pairs)}


def _child(tunnel: Tunnel, local: list[str], remote: list[str]) -> dict[str, Any]:
    terms, esp = tunnel.terms, tunnel.terms.esp
    again = "start" if tunnel.begins else "none"
    return {
        "local_ts": local,
        "remote_ts": remote,
        "esp_proposals": ["-".join(_esp_proposal(terms))],
        "rekey_time": f"{int(esp.lifetime_seconds * _PORTION)}s",
        "life_time": f"{esp.lifetime_seconds}s",
        "start_action": again,
        "close_action": again,
        "dpd_action": again if terms.dpd.action is DPDAction.RESTART else "none",
    }


def _ike_proposal(terms: VPNConnectionAssignment) -> str:
    ike = terms.ike
    made = _HASHES[ike.integrity]
    return f"{_CIPHERS[ike.encryption]}-{f'prf{made}' if ike.encryption in _COMBINED else made}-{_GROUPS[ike.dh_group]}"


def _esp_proposal(terms: VPNConnectionAssignment) -> Iterator[str]:
    esp = terms.esp
    yield _CIPHERS[esp.encryption]
    if esp.encryption not in _COMBINED:
        yield _HASHES[esp.integrity]
    yield _GROUPS[esp.pfs]


def _digest(content: Any) -> str:
    return blake2s(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()

"""Interface names: derived from ids, stable, at most 15 characters (IFNAMSIZ - 1)."""

from __future__ import annotations

from hashlib import blake2s

TAP_DIGITS = 11


def bridge(vni: int) -> str:
    """The bridge of network `vni`."""
    return f"kb{vni:06x}"


def vxlan(vni: int) -> str:
    """The VXLAN device of network `vni`."""
    return f"kx{vni:06x}"


def vlan(vni: int) -> str:
    """The VLAN device of provider network `vni`."""
    return f"ku{vni:06x}"


def service_link(vni: int) -> str:
    """The bridge's end of the veth to the namespace of network `vni`'s DHCP and DNS server."""
    return f"kv{vni:06x}"


def service_mac(vni: int) -> str:
    """The MAC of network `vni`'s DHCP and DNS server, the same on every host."""
    return "0e:6b:6d:" + ":".join(f"{byte:02x}" for byte in vni.to_bytes(3, "big"))


def tap(instance_id: str, nic: str) -> str:
    """The tap of interface `nic` of the instance."""
    digest = blake2s(f"{instance_id}/{nic}".encode()).hexdigest()
    return "kt" + digest[:TAP_DIGITS]

"""Interface names: derived from ids, stable, at most 15 characters (IFNAMSIZ - 1)."""

from __future__ import annotations

from hashlib import blake2s
from ipaddress import ip_address

TAP_DIGITS = 11
ROUTER = "kr"
"""What the names of links to routers begin with."""


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


def router_link(router_id: str, interface: str) -> str:
    """Both ends of the veth between a router's namespace and the bridge of a network; `interface` is unique in it."""
    return ROUTER + blake2s(f"{router_id}/{interface}".encode()).hexdigest()[:TAP_DIGITS]


def router_namespace(router_id: str, prefix: str) -> str:
    """The namespace of a router."""
    return prefix + blake2s(router_id.encode()).hexdigest()[:TAP_DIGITS]


def host_mac(tunnel_address: str) -> str:
    """The source MAC of what routers send to other hosts; nothing is ever sent to it."""
    address = ip_address(tunnel_address)
    number = address.packed if address.version == 4 else blake2s(address.packed, digest_size=4).digest()
    return "0e:6e:" + ":".join(f"{byte:02x}" for byte in number)


def tap(instance_id: str, nic: str) -> str:
    """The tap of interface `nic` of the instance."""
    digest = blake2s(f"{instance_id}/{nic}".encode()).hexdigest()
    return "kt" + digest[:TAP_DIGITS]


def queue(tap_name: str) -> str:
    """The interface that what comes from a tap is led through, if it has a rate."""
    return "ki" + tap_name[2:]


def is_on_the_way(name: str) -> bool:
    """Whether an interface is one that we make in the host's namespace only to move it into another."""
    return name[:2] in ("kt", "kx", "kv", ROUTER)


def is_queue(name: str) -> bool:
    """Whether an interface of the datapath is one of `queue`'s."""
    return name.startswith("ki")


def tap_of(queue_name: str) -> str:
    """The tap that an interface of `queue` is for."""
    return "kt" + queue_name[2:]

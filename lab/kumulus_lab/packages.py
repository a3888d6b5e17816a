"""Debian packages the lab needs; only those that are missing are installed."""

from collections.abc import Sequence

from kumulus_lab import commands

WANTED = (
    "buildah",  # container images from the Dockerfile
    "busybox-static",  # the pause image and the tiny guest
    "charon-systemd",  # VPNs of routers
    "conntrack",  # kube-proxy clears entries of vanished endpoints
    "containernetworking-plugins",
    "debootstrap",  # the base of the container images
    "dnsmasq-base",
    "ethtool",
    "haproxy",  # load balancers
    "iproute2",
    "iptables",  # kubelet asks for it at its start
    "keepalived",
    "libcharon-extra-plugins",  # ESP without the kernel
    "libstrongswan-standard-plugins",
    "libvirt-clients",
    "libvirt-daemon",
    "libvirt-daemon-driver-qemu",
    "libvirt-daemon-system",
    "nftables",
    "openssh-client",  # tests log in to guests
    "ovmf",  # guests that start by UEFI
    "procps",
    "qemu-system-x86",
    "qemu-utils",
    "runc",  # Debian's has seccomp
    "swtpm",  # guests with a TPM
    "swtpm-tools",
    "util-linux",
)
FOR_TESTS = (
    "chromium",  # looks at servers' screens
    "iperf3",  # measures what goes through the rules of ports
    "iputils-ping",  # sends packets of many fragments
    "isc-dhcp-client",  # asks by DHCPv6 as a guest does
    "openssl",  # makes certificates for load balancers
    "strace",  # sees what qemu-img opens
)
# A service started by the installation would be a second libvirtd beside those of the hosts.
_QUIET = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}


def missing(wanted: Sequence[str] = WANTED) -> tuple[str, ...]:
    """Those of the packages that are not installed, in the order given."""
    answer = commands.run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Abbrev}\n", *wanted], check=False)
    return tuple(name for name in wanted if name not in installed(answer.stdout))


def installed(listing: str) -> frozenset[str]:
    """Names marked ``ii`` in lines of ``<package> <status>``."""
    words = (line.split() for line in listing.splitlines())
    return frozenset(word[0] for word in words if len(word) == 2 and word[1] == "ii")


def ensure(wanted: Sequence[str] = WANTED) -> tuple[str, ...]:
    """Install what is missing and return its names; apt is not called when nothing is.

    Raises:
        CommandFailed: apt says why.
    """
    absent = missing(wanted)
    if absent:
        commands.run(["apt-get", "update", "-qq"], timeout=300, env=_QUIET)
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends"]
        commands.run([*install, *absent], timeout=1800, env=_QUIET)
    return absent

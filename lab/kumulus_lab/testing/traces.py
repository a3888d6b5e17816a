"""All that a server could leave on a host, as comparable lines: links, namespaces, rules, domains, processes, files."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from typing import Any

from kumulus_lab.hosts import Hosts
from kumulus_lab.settings import LabSettings
from kumulus_lab.testing.cloud import Breach
from kumulus_lab.testing.sightings import VIRSH

Traces = Counter[str]

_AGAIN_SECONDS = 1.0
_HOST = "(host)"
_FOLDERS = ("/var/lib/kumulus", "/run/kumulus", "/etc/libvirt/qemu", "/var/lib/libvirt/qemu", "/run/libvirt/qemu")
_IMAGES = "/var/lib/kumulus/images"
"""Kept on purpose: images are a cache."""
_VOLATILE = frozenset({"handle", "packets", "bytes", "index", "expires"})
_OURSELVES = re.compile(r"^(ps|nsenter|virsh|ip|nft|find) ")
_CONTAINER_PROBES = re.compile(r"^(runc|/pause|\[)")


async def traces(lab: LabSettings) -> dict[str, Traces]:
    """Give what is on each host, by the host's name."""
    names = [host.name for host in lab.host_specs]
    return dict(zip(names, await asyncio.gather(*(asyncio.to_thread(_of, lab, name) for name in names)), strict=True))


async def as_before(lab: LabSettings, before: dict[str, Traces], seconds: float) -> None:
    """Return as soon as the hosts are as they were.

    Raises:
        Breach: they are not after `seconds`; the message lists what is too much and what is missing.
    """
    end = time.monotonic() + seconds
    # Links, rules, files and processes have no event in common: they are looked at again.
    while True:
        late = time.monotonic() >= end
        now = await traces(lab)
        differences = [
            f"{host}: {sign} {line}"
            for host in before
            for sign, more in (("left:", now[host] - before[host]), ("missing:", before[host] - now[host]))
            for line in sorted(more)
        ]
        if not differences:
            return
        if late:
            raise Breach(f"after {seconds} s hosts are not as before:\n" + "\n".join(differences))
        await asyncio.sleep(_AGAIN_SECONDS)


def _of(lab: LabSettings, host: str) -> Traces:
    hosts = Hosts(lab)

    def run(*argv: str) -> str:
        return hosts.run(host, argv, check=True).stdout

    names = sorted(line.split()[0] for line in run("ip", "netns", "list").splitlines() if line.strip())
    lines = [f"namespace {name}" for name in names]
    for name in ["", *names]:
        enter = ("ip", "netns", "exec", name) if name else ()
        where = name or _HOST
        lines += _links(where, json.loads(run(*enter, "ip", "-json", "-details", "address")))
        lines += [
            f"{where}: route {line.strip()}" for line in run(*enter, "ip", "route", "show", "table", "all").splitlines()
        ]
        lines += _rules(where, json.loads(run(*enter, "nft", "--json", "--stateless", "list", "ruleset")))
    lines += [f"domain {name}" for name in run(*VIRSH, "list", "--all", "--name").split()]
    lines += [f"process {args}" for args in _processes(run("ps", "-e", "-o", "args", "--no-headers", "-ww"))]
    lines += _files(run)
    return Counter(lines)


def _links(where: str, links: list[dict[str, Any]]) -> list[str]:
    out = []
    for link in links:
        kind = link.get("linkinfo", {}).get("info_kind", "")
        shown = {name: link.get(name) for name in ("address", "mtu", "master", "operstate", "promiscuity")}
        out.append(f"{where}: link {link['ifname']} {kind} {shown}")
        out += [f"{where}: {link['ifname']} has {item['local']}/{item['prefixlen']}" for item in link["addr_info"]]
    return out


def _rules(where: str, ruleset: dict[str, Any]) -> list[str]:
    """One line per table, chain, rule and set, without handles and counters; elements of sets in order."""
    items = [item for item in ruleset["nftables"] if "metainfo" not in item]
    return [f"{where}: nft {json.dumps(_lasting(item), sort_keys=True)}" for item in items]


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        out = {name: _lasting(inner) for name, inner in value.items() if name not in _VOLATILE}
        if isinstance(out.get("elem"), list):
            out["elem"] = sorted(out["elem"], key=lambda element: json.dumps(element, sort_keys=True))
        return out
    return [_lasting(inner) for inner in value] if isinstance(value, list) else value


def _processes(text: str) -> list[str]:
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if not _OURSELVES.match(line) and not _CONTAINER_PROBES.match(line)]


def _files(run: Any) -> list[str]:
    shown = ("-printf", "%y %m %p %l\\n")
    found = run("find", *_FOLDERS, "-path", _IMAGES, "-prune", "-o", *shown)
    groups = run("find", "/sys/fs/cgroup", "-name", "kubepods", "-prune", "-o", "-type", "d", *shown)
    return [f"file {line.strip()}" for line in (found + groups).splitlines()]

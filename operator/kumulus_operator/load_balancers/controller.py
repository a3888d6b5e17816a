"""Reconcile a LoadBalancer: give it a port and hosts, resolve its members, say what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import structlog

from kumulus_api import IN_USE, LoadBalancer, Network
from kumulus_api.load_balancer import LoadBalancerAssignment
from kumulus_api.load_balancer_status import LoadBalancerReason
from kumulus_operator.cloud import Cloud
from kumulus_operator.load_balancers.certificates import certificate_of
from kumulus_operator.load_balancers.hosts import Hosts, Seen, Standing, choose_hosts, moved_takeover, priority_of
from kumulus_operator.load_balancers.hosts import standing as standing_of
from kumulus_operator.load_balancers.plan import (
    Members,
    addresses_with,
    former_version,
    listeners_of,
    load_balancer_status,
    next_hops,
    no_host,
    unheard,
)
from kumulus_operator.load_balancers.vip import give_own_port, give_port
from kumulus_operator.networks.plan import tunnel_of
from kumulus_operator.refusal import Refusal, Refused
from kumulus_operator.routers.ways import has_taken_over, objection, shares
from kumulus_operator.security_groups.plan import names_of, need_of, references, require
from kumulus_operator.servers.resolve import ready_network
from kumulus_operator.views import Key
from kumulus_operator.waiting import CAPACITY, Need, quota

_LOG = structlog.stdlib.get_logger(__name__)


class LoadBalancerController:
    """Serves load balancers.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def reconcile(self, key: Key) -> None:
        """Bring one load balancer to its desired state."""
        try:
            await self._reconcile(key)
        finally:
            self._cloud.certificates.follow(key, self._cloud.load_balancer_waiters.needs_of(key))

    async def _reconcile(self, key: Key) -> None:
        cloud = self._cloud
        cloud.load_balancer_waiters.forget(key)
        balancer = cloud.load_balancers.get(*key)
        if balancer is None:
            return
        if balancer.deleting:
            await self._let_go(balancer)
            return
        # Registered before looking, so that a change in between is not missed.
        interests = _interests(balancer)
        cloud.load_balancer_waiters.wait(key, interests)
        try:
            self._admit(balancer)
            with cloud.placing_on({_network(balancer)}):
                balancer, faults, standing = await self._bring(balancer)
        except Refused as refused:
            faults, standing = [refused.refusal], None
        finally:
            cloud.balancers.choosing.pop(key, None)
        needs = {need for fault in faults for need in fault.needs} | (standing.needs if standing else frozenset())
        given = balancer.spec.assignment
        alone: set[Need] = {CAPACITY} if given is None or given.takeover is None else set()
        cloud.load_balancer_waiters.wait(key, interests | needs | alone)
        silent = unheard(balancer)
        await self._tell(balancer, [*faults, silent] if silent is not None else faults, standing)

    def _admit(self, balancer: LoadBalancer) -> None:
        admitted = balancer.spec.assignment is not None
        excess = self._cloud.counted_load_balancers.admit(balancer.key, admitted=admitted)
        if excess is not None:
            message = f"quota: {excess}; transient: admitted when load balancers are deleted or the quota is raised"
            raise Refused(
                Refusal(LoadBalancerReason.QUOTA_EXCEEDED.value, message, frozenset({quota(balancer.key[0])}))
            )

    async def _bring(self, balancer: LoadBalancer) -> tuple[LoadBalancer, list[Refusal], Standing]:
        """Write what is decided, if it is news; give the load balancer as it is then, and what is not as it should be.

        Raises:
            Refused: it has nothing yet, and gets nothing.
        """
        try:
            network = ready_network(balancer.key[0], balancer.spec.network, self._cloud)
        except Refused as refused:
            if balancer.spec.assignment is None:
                raise
            return await self._move(balancer, refused.refusal)
        groups, faults = self._groups(balancer)
        hosts, tunnels, fault = self._hosts(balancer, network)
        faults += [fault] if fault is not None else []
        if hosts.host is None:
            raise Refused(faults[-1])
        given = balancer.spec.assignment
        port = await give_port(self._cloud, balancer, network, groups)
        takeover, standing = await self._takeover(balancer, network, groups, hosts, tunnels)
        certificates, without = await self._certificates(balancer)
        found = self._members(balancer.key[0], network.key, port.addresses, certificates)
        listeners, left_out = listeners_of(balancer, found)
        faults += without
        wanted = LoadBalancerAssignment.model_validate(
            {
                "loadBalancerID": port.load_balancer_id,
                "port": port.name,
                "portID": port.port_id,
                "mac": port.mac,
                "addresses": addresses_with(network, port.addresses),
                "nextHops": next_hops(network, port.addresses),
                "network": network.metadata.name,
                "networkNamespace": network.key[0],
                "vni": network.status.vni if network.status is not None else None,
                "securityGroups": [item["name"] for item in references(groups)],
                "host": hosts.host,
                "standby": hosts.standby,
                "takeover": takeover,
                "listeners": [item.dump() for item in listeners],
            }
        )
        if wanted != given:
            balancer = await self._assign(balancer, wanted)
        return balancer, faults + left_out, standing

    async def _takeover(
        self,
        balancer: LoadBalancer,
        network: Network,
        groups: tuple[str, ...],
        hosts: Hosts,
        tunnels: Mapping[str, str],
    ) -> tuple[dict[str, Any] | None, Standing]:
        """Give how the standby takes over, and what is told of it."""
        if not hosts.by_itself or hosts.host is None or hosts.standby is None:
            return None, standing_of(hosts, None)
        try:
            own = await give_own_port(self._cloud, balancer, network, groups)
        except Refused as refused:
            return None, standing_of(hosts, refused.refusal)
        takeover = {
            "priority": priority_of(balancer.spec.assignment, hosts),
            "tunnelAddress": tunnels[hosts.host],
            "standbyTunnelAddress": tunnels[hosts.standby],
            "port": own.name,
            "portID": own.port_id,
            "mac": own.mac,
            "addresses": addresses_with(network, own.addresses),
        }
        return takeover, standing_of(hosts, None)

    async def _move(self, balancer: LoadBalancer, fault: Refusal) -> tuple[LoadBalancer, list[Refusal], Standing]:
        """Keep a load balancer as it is though its network cannot be had anew, on a host that lives."""
        given = balancer.spec.assignment
        network = self._cloud.networks.get(given.network_namespace, given.network) if given is not None else None
        if given is None or network is None:
            return balancer, [fault], standing_of(Hosts(None), None)
        hosts, tunnels, _ = self._hosts(balancer, network)
        takeover = moved_takeover(given, hosts, tunnels)
        wanted = given.model_copy(
            update={"host": hosts.host or given.host, "standby": hosts.standby, "takeover": takeover}
        )
        refused = fault if takeover is None else None
        balancer = await self._assign(balancer, wanted) if wanted != given else balancer
        return balancer, [fault], standing_of(hosts, refused)

    def _groups(self, balancer: LoadBalancer) -> tuple[tuple[str, ...], list[Refusal]]:
        """Give the groups of its port: while one is not there, those that it is in already."""
        names = names_of(balancer.spec.security_groups)
        try:
            require(balancer.key[0], names, self._cloud.security_groups)
        except Refused as refused:
            given = balancer.spec.assignment
            if given is None:
                raise
            return tuple(given.security_groups) or names_of(None), [refused.refusal]
        return names, []

    def _hosts(self, balancer: LoadBalancer, network: Network) -> tuple[Hosts, dict[str, str], Refusal | None]:
        """Give the hosts to be on, where hosts are reached, and what is to be said as none is good."""
        cloud, given = self._cloud, balancer.spec.assignment
        objections = Counter[str]()
        able, silent, tunnels = [], [], {}
        own = {given.host, given.standby} if given is not None else set()
        for host in cloud.hosts:
            name, against = host.metadata.name, objection(host, network)
            found = "silent" if cloud.host_silent(name) else against
            tunnel = tunnel_of(host)
            if tunnel is not None and shares(host):
                tunnels[name] = tunnel
            if found == "silent" and against in (None, "not Ready"):
                silent.append(name)
            # One that has it is kept until it is silent: a new leader has not heard of any yet.
            if found is None and (name in own or cloud.host_fresh(name)):
                able.append(name)
            else:
                objections[found or "silent"] += 1
        standby = cloud.hosts.get("", given.standby) if given is not None and given.standby is not None else None
        taken = given is not None and has_taken_over(standby, given.load_balancer_id)
        seen = Seen(able, cloud.balancers.counts(), tunnels, frozenset(silent), taken)
        chosen = choose_hosts(given, seen)
        cloud.balancers.choosing[balancer.key] = frozenset(
            name for name in (chosen.host, chosen.standby) if name is not None
        )
        if given is not None and chosen.host not in (given.host, None):
            _LOG.info(
                "load balancer moves",
                namespace=balancer.key[0],
                name=balancer.key[1],
                source=given.host,
                target=chosen.host,
            )
        if able:
            return chosen, tunnels, None
        return chosen, tunnels, no_host(network.metadata.name, given.host if given is not None else None, objections)

    def _members(self, namespace: str, network: Key, own: tuple[str, ...], certificates: dict[str, str]) -> Members:
        cloud = self._cloud
        return Members(
            network,
            ip_address(own[0]).version,
            lambda name: cloud.servers.get(namespace, name),
            lambda: cloud.servers.in_namespace(namespace),
            frozenset(own),
            certificates,
        )

    async def _certificates(self, balancer: LoadBalancer) -> tuple[dict[str, str], list[Refusal]]:
        """Give the versions of listeners' certificates, and why some cannot be had: those serve with what they have."""
        versions, faults = {}, []
        for listener in balancer.spec.listeners:
            if listener.tls is None:
                continue
            try:
                secret, part = listener.tls.secret.name, f"listener {listener.name}"
                version = (await certificate_of(self._cloud.client, balancer.key[0], secret, part)).version
            except Refused as refused:
                faults.append(refused.refusal)
                former = former_version(balancer, listener)
                if former is None:
                    continue
                version = former
            versions[listener.name] = version
        return versions, faults

    async def _assign(self, balancer: LoadBalancer, wanted: LoadBalancerAssignment) -> LoadBalancer:
        written = await self._cloud.assign(balancer, wanted)
        _LOG.info(
            "load balancer assigned",
            namespace=balancer.key[0],
            name=balancer.key[1],
            host=wanted.host,
            standby=wanted.standby,
            members=sum(len(item.members) for item in wanted.listeners),
        )
        return written

    async def _tell(self, balancer: LoadBalancer, faults: list[Refusal], standing: Standing | None) -> None:
        status = load_balancer_status(balancer, faults, datetime.now(UTC), standing)
        await self._cloud.tell(balancer, status, faults, passing={LoadBalancerReason.WAITING_FOR_HOST})

    async def _let_go(self, balancer: LoadBalancer) -> None:
        """Remove the finalizer: hosts stop serving when it is gone, its port goes with it, and its claims after it."""
        if IN_USE in balancer.metadata.finalizers:
            await self._cloud.let_go(balancer, IN_USE)


def _network(balancer: LoadBalancer) -> Key:
    reference = balancer.spec.network
    return reference.namespace or balancer.key[0], reference.name


def _interests(balancer: LoadBalancer) -> set[Need]:
    """Give what a load balancer depends on besides its members, which have an index of their own."""
    namespace, given = balancer.key[0], balancer.spec.assignment
    needs: set[Need] = {("Network", *_network(balancer)), quota(namespace)}
    needs |= {need_of(namespace, name) for name in names_of(balancer.spec.security_groups)}
    secrets = (item.tls.secret.name for item in balancer.spec.listeners if item.tls is not None)
    needs |= {("Secret", namespace, name) for name in secrets}
    if given is not None:
        needs.add(("Port", namespace, given.port))
        if given.takeover is not None:
            needs.add(("Port", namespace, given.takeover.port))
    return needs

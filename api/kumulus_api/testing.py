"""Examples of every kind, for tests: a valid object that a test overrides where it matters."""

from __future__ import annotations

import copy
from typing import Any

from kumulus_api import (
    API_VERSION,
    AddressClaim,
    BackupPolicy,
    ConsoleSession,
    DNSRecord,
    DNSZone,
    DNSZoneClaim,
    FirewallGroup,
    Flavor,
    FloatingIP,
    Host,
    HostAggregate,
    Image,
    ImageAcceptance,
    ImageUpload,
    KeyPair,
    Kind,
    LoadBalancer,
    Network,
    NetworkEndpoints,
    NetworkIDClaim,
    NetworkTrace,
    Port,
    Project,
    Router,
    SecurityGroup,
    Server,
    ServerAction,
    ServerGroup,
    Volume,
    VolumeBackup,
    VolumeClass,
    VolumeSnapshot,
    VolumeTransfer,
    VPNConnection,
)

Object = dict[str, Any]

INSTANCE_ID = "00000000-0000-4000-8000-000000000001"
PORT_ID = "00000000-0000-4000-8000-000000000002"
ROUTER_ID = "00000000-0000-4000-8000-000000000004"
FLOATING_IP_ID = "00000000-0000-4000-8000-000000000005"
LOAD_BALANCER_ID = "00000000-0000-4000-8000-000000000006"
VOLUME_ID = "00000000-0000-4000-8000-000000000003"
MAC = "52:54:00:00:00:01"
DIGEST = "sha256:" + "0" * 64
NAMESPACE = "demo"

_SPECS: dict[type[Kind], Object] = {
    Project: {
        "description": "example",
        "roles": [{"role": "member", "subjects": [{"kind": "User", "name": "alice"}]}],
        "quota": {"servers": 10, "vcpus": 20, "memory": "8Gi"},
    },
    Flavor: {"vcpus": 1, "memory": "128Mi", "rootDisk": "1Gi"},
    Host: {"schedulable": True},
    HostAggregate: {
        "hostSelector": {"matchLabels": {"rack": "a"}, "names": ["h1", "h2"]},
        "zone": "north",
        "traits": ["CUSTOM_SSD"],
        "metadata": {"ssd": "true"},
    },
    Image: {"source": {"url": "https://images.example/tiny.qcow2"}, "format": "qcow2", "checksum": DIGEST},
    ImageAcceptance: {"image": {"name": "golden", "namespace": "other"}},
    KeyPair: {"publicKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExampleExampleExampleExampleExampleExampleEx alice"},
    Network: {
        "subnets": [
            {
                "name": "v4",
                "cidr": "10.0.0.0/24",
                "gateway": "10.0.0.1",
                "pools": [{"start": "10.0.0.10", "end": "10.0.0.200"}],
                "dnsServers": ["192.0.2.53"],
                "routes": [{"destination": "172.16.0.0/12", "nextHop": "10.0.0.9"}],
                "enableDHCP": True,
            }
        ]
    },
    NetworkEndpoints: {
        "network": {"name": "private"},
        "vni": 4096,
        "endpoints": [
            {
                "port": "web-eth0",
                "mac": MAC,
                "addresses": ["10.0.0.10"],
                "host": "h1",
                "tunnelAddress": "192.0.2.1",
                "hostname": "web",
                "groups": ["default"],
                "dnsName": "www",
                "pairs": [{"address": "10.8.0.0/16", "mac": "00:00:5e:00:01:32"}],
            }
        ],
    },
    Port: {
        "network": {"name": "private"},
        "addresses": ["10.0.0.10"],
        "securityGroups": [{"name": "web"}],
        "dnsName": "www",
        "portSecurityEnabled": True,
        "allowedAddressPairs": [{"address": "10.0.0.50"}, {"address": "10.8.0.0/16", "mac": "00:00:5e:00:01:32"}],
        "qos": {"ingressKbps": 20000, "egressKbps": 10000, "burstKbits": 2000},
    },
    SecurityGroup: {
        "description": "a web server",
        "ingress": [
            {"etherType": "IPv4", "protocol": "TCP", "port": 80, "endPort": 81, "remoteCIDR": "192.0.2.0/24"},
            {"etherType": "IPv6", "protocol": "ICMP", "icmpType": 128},
            {"etherType": "IPv4", "remoteGroup": {"name": "default"}},
        ],
    },
    Router: {
        "interfaces": [{"name": "private", "network": {"name": "private"}, "subnet": "v4"}],
        "gateway": {
            "network": {"name": "public", "namespace": "kumulus-public"},
            "enableSNAT": True,
            "enableSNATIPv6": False,
        },
        "routes": [{"destination": "198.51.100.0/24", "nextHop": "10.0.0.20"}],
    },
    FloatingIP: {"network": {"name": "public", "namespace": "kumulus-public"}, "port": {"name": "web-eth0"}},
    VPNConnection: {
        "router": {"name": "example"},
        "peerAddress": "198.51.100.9",
        "peerCIDRs": ["10.20.0.0/16"],
        "localSubnets": ["10.0.0.0/24"],
        "psk": {"secret": "office", "key": "psk"},
        "ike": {
            "version": "IKEv2",
            "encryption": "AES256",
            "integrity": "SHA256",
            "dhGroup": "Group14",
            "lifetimeSeconds": 86400,
        },
        "esp": {"encryption": "AES256GCM", "integrity": "SHA256", "pfs": "Group19", "lifetimeSeconds": 3600},
        "initiator": "Bidirectional",
        "dpd": {"action": "Restart", "intervalSeconds": 30, "timeoutSeconds": 120},
    },
    LoadBalancer: {
        "network": {"name": "private"},
        "address": "10.0.0.30",
        "securityGroups": [{"name": "web"}],
        "listeners": [
            {
                "name": "web",
                "protocol": "HTTP",
                "port": 80,
                "connectionLimit": 2000,
                "allowedCIDRs": ["192.0.2.0/24"],
                "timeouts": {"clientSeconds": 50, "connectSeconds": 5, "memberSeconds": 50},
                "pool": {
                    "algorithm": "RoundRobin",
                    "members": [
                        {"name": "web", "server": {"name": "web"}, "port": 8080, "weight": 10, "backup": False},
                        {"name": "sorry", "address": "192.0.2.80", "port": 80, "weight": 1, "backup": True},
                    ],
                    "memberSelector": {"matchLabels": {"app": "web"}, "port": 8080, "weight": 1},
                    "healthCheck": {
                        "type": "HTTP",
                        "path": "/healthz",
                        "expectedCodes": "200-299",
                        "intervalSeconds": 5,
                        "timeoutSeconds": 3,
                        "rise": 2,
                        "fall": 3,
                    },
                    "sessionPersistence": {"type": "HTTPCookie", "cookieName": "WEB"},
                },
            }
        ],
    },
    Volume: {"size": "1Gi"},
    VolumeClass: {"driver": "Shared", "shared": {"folder": "/srv/volumes"}},
    VolumeSnapshot: {"volume": {"name": "data"}},
    VolumeTransfer: {"volume": {"name": "data"}, "project": "other"},
    VolumeBackup: {"source": {"volume": {"name": "data"}}, "incremental": False, "verify": "once"},
    BackupPolicy: {
        "schedule": "0 3 * * *",
        "timeZone": "Europe/Berlin",
        "volumes": {"matchLabels": {"backup": "daily"}},
        "retention": {"count": 7, "days": 30},
        "startingDeadlineSeconds": 3600,
    },
    Server: {
        "flavor": {"name": "tiny"},
        "image": {"name": "tiny", "namespace": "kumulus-public"},
        "networks": [{"name": "eth0", "network": {"name": "private"}, "address": "10.0.0.10"}],
        "volumes": [{"name": "data", "volume": {"name": "data"}}],
        "keyPair": {"name": "alice"},
        "userData": {"inline": "#cloud-config\n"},
    },
    FirewallGroup: {
        "ingressRules": [
            {
                "name": "web",
                "enabled": True,
                "action": "Allow",
                "protocol": "TCP",
                "sourceCIDR": "192.0.2.0/24",
                "destinationPort": 80,
                "destinationEndPort": 81,
            }
        ],
        "egressRules": [{"name": "out", "enabled": True, "action": "Allow"}],
        "routers": [{"name": "example", "interfaces": ["private"]}],
    },
    NetworkTrace: {
        "source": {"server": {"name": "web"}},
        "destination": {"address": "192.0.2.1"},
        "protocol": "TCP",
        "port": 80,
    },
    ServerAction: {"server": {"name": "web"}, "type": "Reboot", "reboot": {"type": "Hard"}},
    ServerGroup: {"policy": "AntiAffinity"},
    ConsoleSession: {"server": {"name": "web"}, "type": "Serial", "tokenHash": "0" * 64, "user": "alice"},
    ImageUpload: {"image": {"name": "example"}, "tokenHash": "0" * 64, "user": "alice"},
    DNSZone: {"domain": "example.test.", "email": "hostmaster@example.test", "ttl": 300},
    DNSRecord: {"zone": {"name": "example"}, "name": "www", "type": "A", "records": ["192.0.2.10"]},
    DNSZoneClaim: {
        "domain": "example.test.",
        "claimRef": {"kind": "DNSZone", "namespace": NAMESPACE, "name": "example", "instance": PORT_ID},
    },
    AddressClaim: {
        "network": {"name": "private", "namespace": NAMESPACE},
        "vni": 4096,
        "address": "10.0.0.10",
        "claimRef": {"kind": "Port", "namespace": NAMESPACE, "name": "web-eth0", "instance": PORT_ID},
    },
    NetworkIDClaim: {
        "vni": 4096,
        "claimRef": {"kind": "Network", "namespace": NAMESPACE, "name": "private", "instance": PORT_ID},
    },
}

_ASSIGNMENTS: dict[type[Kind], Object] = {
    Server: {
        "instanceID": INSTANCE_ID,
        "epoch": 1,
        "resources": {"vcpus": 1, "memory": "128Mi", "rootDisk": "1Gi"},
        "ports": [
            {
                "name": "eth0",
                "port": "web-eth0",
                "portID": PORT_ID,
                "network": "private",
                "networkNamespace": NAMESPACE,
                "vni": 4096,
                "mac": MAC,
                "addresses": ["10.0.0.10"],
            }
        ],
    },
    Volume: {"volumeID": VOLUME_ID},
    VolumeSnapshot: {"volumeID": VOLUME_ID, "snapshotID": PORT_ID},
    VolumeBackup: {"volumeID": VOLUME_ID, "backupID": PORT_ID, "chain": PORT_ID},
    Port: {"portID": PORT_ID, "mac": MAC, "addresses": ["10.0.0.10"]},
    VPNConnection: {
        "routerID": ROUTER_ID,
        "standby": "h2",
        "localAddress": "203.0.113.2",
        "localID": "203.0.113.2",
        "peerAddress": "198.51.100.9",
        "peerID": "198.51.100.9",
        "localSubnets": ["10.0.0.0/24"],
        "peerCIDRs": ["10.20.0.0/16"],
        "pskVersion": "1",
    },
    LoadBalancer: {
        "loadBalancerID": LOAD_BALANCER_ID,
        "port": "example-vip",
        "portID": PORT_ID,
        "mac": MAC,
        "addresses": ["10.0.0.30/24"],
        "nextHops": ["10.0.0.1"],
        "network": "private",
        "networkNamespace": NAMESPACE,
        "vni": 4096,
        "standby": "h2",
        "listeners": [
            {
                "name": "web",
                "protocol": "HTTP",
                "port": 80,
                "algorithm": "RoundRobin",
                "members": [{"name": "web", "address": "10.0.0.10", "port": 8080}, {"name": "new", "port": 8080}],
                "healthCheck": {"type": "HTTP", "path": "/healthz"},
            }
        ],
    },
    FloatingIP: {
        "floatingIPID": FLOATING_IP_ID,
        "address": "203.0.113.5",
        "mac": MAC,
        "network": "public",
        "networkNamespace": "kumulus-public",
        "vni": 4097,
        "router": "example",
        "routerID": ROUTER_ID,
        "fixedAddress": "10.0.0.10",
    },
}

ROUTER_ASSIGNMENT: Object = {
    "routerID": ROUTER_ID,
    "interfaces": [
        {
            "name": "private",
            "network": "private",
            "networkNamespace": NAMESPACE,
            "vni": 4096,
            "mac": MAC,
            "addresses": ["10.0.0.1/24"],
        }
    ],
    "gateway": {
        "network": "public",
        "networkNamespace": "kumulus-public",
        "vni": 4097,
        "mac": MAC,
        "addresses": ["203.0.113.2/24"],
        "nextHops": ["203.0.113.1"],
        "enableSNAT": True,
        "enableSNATIPv6": False,
        "routed": [],
        "host": "h1",
        "tunnelAddress": "192.0.2.1",
    },
}
"""What the operator decides for the example of a Router."""


def make_object(kind: type[Kind], name: str = "example", /, **overrides: Any) -> Object:
    """Give a valid object in the wire form.

    Args:
        kind: the kind.
        name: its name; its namespace is `demo` if the kind has one.
        overrides: fields of the spec, in camelCase; None leaves one out.
    """
    spec = copy.deepcopy(_SPECS[kind]) | overrides
    metadata = {"name": name} | ({"namespace": NAMESPACE} if kind.definition.namespaced else {})
    return {
        "apiVersion": API_VERSION,
        "kind": kind.__name__,
        "metadata": metadata,
        "spec": {key: value for key, value in spec.items() if value is not None},
    }


def make_assigned(kind: type[Kind], name: str, host: str) -> Object:
    """Give an object of a kind that is assigned to one host, as the operator has put it there."""
    return make_object(kind, name, assignment=copy.deepcopy(_ASSIGNMENTS[kind]) | {"host": host})

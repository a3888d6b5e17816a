"""How exported volumes are served and fetched, as far as it is pure, or files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kumulus_agent.compute.devices import devices_of
from kumulus_agent.compute.devices_xml import device_xml
from kumulus_agent.compute.domain_spec import Disk
from kumulus_agent.migration.certificate_request import ORGANIZATION as REQUESTED
from kumulus_agent.migration.domains import on_first_layers, written_disks
from kumulus_agent.volumes.exports.arguments import (
    ORGANIZATION,
    Exported,
    allowed,
    export_argv,
    export_unit,
    import_argv,
    import_unit,
    volume_of_unit,
)
from kumulus_agent.volumes.exports.tls import tls_folder
from kumulus_api.hardware import Hardware

ID = "11111111-1111-4111-8111-111111111111"
KEY = b"-----BEGIN PRIVATE KEY-----\nk\n-----END PRIVATE KEY-----\n"
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nc\n-----END CERTIFICATE-----\n"
PEM = KEY + CERTIFICATE


def test_exactly_the_named_hosts_are_allowed() -> None:
    """Who is not named is denied; so is a host whose name is cut off in its certificate."""
    said = json.loads(allowed(frozenset({"h2", "h" * 65})))
    assert said["policy"] == "deny"
    assert {rule["match"] for rule in said["rules"]} == {"O=kumulus:hosts,CN=h2", "CN=h2,O=kumulus:hosts"}
    assert {(rule["policy"], rule["format"]) for rule in said["rules"]} == {("allow", "exact")}
    assert ORGANIZATION == REQUESTED


@pytest.mark.parametrize(("through", "cache"), [(True, "--cache=directsync"), (False, "--cache=writethrough")])
def test_an_export_needs_a_certificate_and_caches_nothing(through: bool, cache: str) -> None:
    """Clients are verified, and no write is acknowledged that is not on the disk; the format is never guessed."""
    exported = Exported(ID, Path("/v/a.qcow2"), "qcow2", "192.0.2.1", 9900, through)
    argv = export_argv(exported, Path("/pki/x"), frozenset({"h2"}))
    assert {cache, "--format=qcow2", "--tls-creds=tls", "--tls-authz=allowed", "--bind=192.0.2.1"} <= set(argv)
    assert any("verify-peer=yes" in part and "endpoint=server" in part for part in argv)


def test_a_host_is_known_by_its_name() -> None:
    """The certificate of the host that is dialled must bear its name; a comma in a value stays in it."""
    argv = import_argv(ID, "h1", ("192.0.2.1", 9900), Path("/pki/a,b"), Path("/run/s.sock"))
    assert "tls-hostname=h1" in argv[-1]
    assert any("dir=/pki/a,,b" in part for part in argv)


def test_units_tell_their_volumes() -> None:
    """A service's name leads back to its volume."""
    assert {volume_of_unit(export_unit(ID)), volume_of_unit(import_unit(ID))} == {ID}
    assert volume_of_unit("kumulus-dns-00002a") == ""


def test_a_folder_of_certificates_is_whole_and_named_by_its_content(tmp_path: Path) -> None:
    """Key and certificate come apart; the same content has the same folder, another has another; few are kept."""
    first = tls_folder(tmp_path, PEM, b"ca")
    assert tls_folder(tmp_path, PEM, b"ca") == first
    assert (first / "client-cert.pem").read_bytes() == CERTIFICATE
    assert (first / "server-key.pem").read_bytes() == KEY
    assert (first / "server-key.pem").stat().st_mode & 0o77 == 0
    others = [tls_folder(tmp_path, PEM, b"ca%d" % number) for number in range(5)]
    assert len({first, *others}) == 6
    assert others[-1].exists()
    assert len(list(tmp_path.iterdir())) <= 4


def test_a_volume_of_another_host_is_known_by_its_socket() -> None:
    """Its disk is a volume to whoever looks, is not copied by a migration, and keeps its source."""
    disk = Disk(f"/run/kumulus/volumes/{ID}.sock", "raw", "vdb", ID[:20], export=ID)
    xml = f"<domain><devices>{device_xml(disk, Hardware())}</devices></domain>"
    assert devices_of(xml).volumes == {ID}
    assert not devices_of(xml).bound
    assert written_disks(xml, frozenset({ID})) == []
    assert f'socket="/run/kumulus/volumes/{ID}.sock"' in on_first_layers(xml, frozenset({ID}))
    assert 'error_policy="stop"' in xml

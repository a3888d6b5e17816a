import yaml
from cryptography import x509
from cryptography.x509.oid import NameOID

from kumulus_lab.pki import Authority, Identity


def certificate(authority, name):
    """The certificate of that name."""
    return x509.load_pem_x509_certificate(authority.path(f"{name}.crt").read_bytes())


def test_certificate_names_user_groups_and_hosts(tmp_path):
    """A certificate carries user, groups, names and addresses, and is signed by the authority."""
    authority = Authority(tmp_path)
    authority.ensure(Identity("node", "system:node:h1", ("system:nodes",), ("h1", "10.88.0.11")))
    made = certificate(authority, "node")
    made.verify_directly_issued_by(authority.certificate)
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert made.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "system:node:h1"
    assert made.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "system:nodes"
    assert names.get_values_for_type(x509.DNSName) == ["h1"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.88.0.11"]


def test_files_are_made_once(tmp_path):
    """A second authority on the same folder keeps every key and certificate."""
    user = Identity("admin", "admin", ("system:masters",))
    Authority(tmp_path).ensure_kubeconfig(user, "https://127.0.0.1:6443")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    Authority(tmp_path).ensure_kubeconfig(user, "https://127.0.0.1:6443")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_nobody_else_can_read(tmp_path):
    """Every file is readable by its owner alone."""
    authority = Authority(tmp_path / "pki")
    authority.ensure_signing_pair("service-account")
    assert {path.stat().st_mode & 0o777 for path in authority.directory.iterdir()} == {0o600}


def test_kubeconfig_stands_alone(tmp_path):
    """A kubeconfig embeds all it needs and selects its only context."""
    path = Authority(tmp_path).ensure_kubeconfig(Identity("admin", "admin"), "https://10.88.0.1:6443")
    config = yaml.safe_load(path.read_text())
    assert config["clusters"][0]["cluster"]["server"] == "https://10.88.0.1:6443"
    assert set(config["users"][0]["user"]) == {"client-certificate-data", "client-key-data"}
    assert config["current-context"] == config["contexts"][0]["name"]

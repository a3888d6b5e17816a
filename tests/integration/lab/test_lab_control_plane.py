import json

from kumulus_lab.control_plane import ControlPlane


def test_temporary_control_plane_serves_and_leaves_nothing(tmp_path):
    """Etcd and API server answer within the block, write an audit log, and are gone after it."""
    with ControlPlane.temporary(tmp_path) as plane:
        plane.kubectl("create", "configmap", "seen", "--from-literal=a=b")
        assert plane.ready()
        daemons = plane.daemons()
        assert all(daemon.pid_file.exists() for daemon in daemons)
    verbs = {json.loads(line)["verb"] for line in plane.audit_log.read_text().splitlines()}
    assert "create" in verbs
    assert not any(daemon.pid_file.exists() for daemon in daemons)
    assert not plane.ready()

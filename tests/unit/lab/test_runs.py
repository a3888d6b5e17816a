"""When an instance ran is read from libvirt's log of its domain."""

from pathlib import Path

from kumulus_lab.settings import LabSettings
from kumulus_lab.testing.runs import runs

LOG = """2026-11-21 16:39:26.250+0000: starting up libvirt version: 9.0.0
2026-11-21 16:39:26.250+0000: Domain id=12 is tainted: high-privileges
2026-11-21 16:39:51.330+0000: shutting down, reason=destroyed
2026-11-21 16:40:00.000+0000: starting up libvirt version: 9.0.0
"""


def test_runs_of_an_instance(tmp_path: Path) -> None:
    """Each start is a run that ends with the next end, and the last goes on."""
    lab = LabSettings(state=tmp_path)
    log = tmp_path / "hosts" / "h2" / "log" / "libvirt" / "qemu" / "k-x.log"
    log.parent.mkdir(parents=True)
    log.write_text(LOG)
    first, second = runs(lab, "x")
    assert (first.host, first.ended is not None, second.ended) == ("h2", True, None)
    assert first.started < first.ended < second.started  # type: ignore[operator]
    assert runs(lab, "never") == []

"""The choices of the Debian guest that must agree with each other."""

import re
import shlex
from pathlib import Path

import yaml

from kumulus_lab.guests import debian

ROOTFS = Path(debian.__file__).parent / "debian_rootfs"


def test_first_menu_has_the_parameters_of_those_that_come_after() -> None:
    """The menu that update-grub makes in the guest gives the kernel what the first menu gives it."""
    defaults = (ROOTFS / "etc/default/grub.d/50-kumulus.cfg").read_text()
    lines = dict(word.partition("=")[::2] for word in shlex.split(defaults, comments=True))
    later = {*lines["GRUB_CMDLINE_LINUX"].split(), *lines["GRUB_CMDLINE_LINUX_DEFAULT"].split()}
    menu = Path(debian.__file__).with_name("debian_grub.cfg").read_text()
    found = re.search(r"linux16 /vmlinuz root=LABEL=root ro (.*)", menu)
    assert found is not None
    assert set(found[1].split()) == later


def test_no_stage_of_cloud_init_is_lost() -> None:
    """Modules are listed for the stages whose units run, and none for the one whose unit is masked."""
    config = yaml.safe_load((ROOTFS / "etc/cloud/cloud.cfg.d/95_kumulus.cfg").read_text())
    assert config["datasource_list"] == ["NoCloud", "None"]
    assert config["cloud_config_modules"] == []
    assert "cloud-config.service" in debian._MASKED
    assert {"users-groups", "ssh", "growpart", "resizefs"} <= set(config["cloud_init_modules"])
    assert {"runcmd", "scripts-user", "set-passwords"} <= set(config["cloud_final_modules"])


def test_nothing_enabled_is_masked() -> None:
    """No unit is both enabled and masked."""
    assert not set(debian._ENABLED) & set(debian._MASKED)

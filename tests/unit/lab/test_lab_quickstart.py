import subprocess

import pytest

from kumulus_lab import console, quickstart
from kumulus_lab.errors import CommandFailed

NOT_YET = "Error from server (ServiceUnavailable): policy kumulus-finalizer not yet ready to handle request"
EXISTS = 'Error from server (AlreadyExists): error when creating "STDIN": flavors.kumulus.dev "tiny" already exists'


class Refusing:
    """A cluster that refuses with each of the given texts before it agrees."""

    def __init__(self, *texts):
        self.texts = list(texts)
        self.calls = 0

    def kubectl(self, *arguments, stdin, check):
        """Answer one call of kubectl."""
        self.calls += 1
        text = self.texts.pop(0) if self.texts else ""
        return subprocess.CompletedProcess(arguments, returncode=1 if text else 0, stdout="", stderr=text)


def test_creation_waits_for_kinds_and_policies_that_have_just_come():
    """What the API server does not know yet is tried again until it does."""
    cluster = Refusing(NOT_YET, f'{EXISTS}\nno matches for kind "Server"', NOT_YET)
    quickstart.create(cluster, "", pause=0)
    assert cluster.calls == 4


def test_creation_leaves_alone_what_exists():
    """Objects that exist are no error and are not changed."""
    cluster = Refusing(EXISTS)
    quickstart.create(cluster, "", pause=0)
    assert cluster.calls == 1


def test_creation_does_not_repeat_a_refusal():
    """A refusal that time does not change is raised at once; one that it should have changed, after the limit."""
    cluster = Refusing(f"{EXISTS}\nspec.flavor: required")
    with pytest.raises(CommandFailed, match=r"^[^(]*spec\.flavor"):
        quickstart.create(cluster, "", pause=0)
    assert cluster.calls == 1
    with pytest.raises(CommandFailed, match="not yet ready"):
        quickstart.create(Refusing(NOT_YET), "", limit=0)


def test_example_names_the_image_server_that_is_replaced():
    """The example holds the URL that is replaced with that of the cluster's image server."""
    assert quickstart.IMAGE_URL in quickstart.EXAMPLE.read_text()


def test_console_is_read_until_a_line_matches(tmp_path):
    """Control characters and empty lines are left out, and reading ends with the line that was waited for."""
    log = tmp_path / "console.log"
    log.write_bytes(b"\x1b[1;1Hfirst\r\n\r\nkumulus-guest: ready uptime=3\r\n/ # \x1b[6n")
    follow = ["tail", "--lines=+1", "--follow=name", str(log)]
    assert console.read(follow, "kumulus-guest: ready", limit=20) == ["first", "kumulus-guest: ready uptime=3"]


def test_console_is_read_for_so_long_and_no_longer(tmp_path):
    """A guest that writes nothing more holds nobody up for longer than the limit."""
    log = tmp_path / "console.log"
    log.write_text("only this\n")
    follow = ["tail", "--lines=+1", "--follow=name", str(log)]
    assert console.read(follow, "never", limit=0.5) == ["only this"]


def test_reports_are_those_of_the_latest_boot():
    """Of several boots the last one is shown, without what the shell at its end writes."""
    first = ["kumulus-guest: boot-id=1", "kumulus-guest: ready"]
    second = ["kumulus-guest: boot-id=2", "a", "b", "kumulus-guest: ready uptime=2", "/ # "]
    assert console.reports([*first, *second], 3) == ["a", "b", "kumulus-guest: ready uptime=2"]
    assert console.reports(["kernel", "panic"], 1) == ["panic"]

"""What `make up` prints for the user to try."""

import subprocess

import pytest

from kumulus_lab import up
from kumulus_lab.settings import LabSettings

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize(("number", "shows"), [(1, "Ready|True"), (2, "kumulus-guest|answered|#"), (3, "State")])
def test_commands_work_as_printed(lab: LabSettings, number: int, shows: str) -> None:
    """Each command that `make up` prints succeeds when it is pasted into a shell after the line that prepares it."""
    prepare, *commands = up.next_commands(lab)
    pasted = f"{prepare}\n{commands[number - 1]}"
    done = subprocess.run(["bash", "-c", pasted], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert any(text in done.stdout for text in shows.split("|")), done.stdout

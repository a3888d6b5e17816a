"""Inspect an image in a process of its own: what an image makes the inspection do ends with it.

That process may take neither the agent's memory nor its time, and the libraries that it loads (a third of the agent's
own size) are needed a few times in the agent's life.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

from kumulus_agent.storage import errors
from kumulus_agent.storage.inspection import Inspected, SourceFormat

_DEADLINE_SECONDS: Final = 600.0
_REFUSALS: Final = {
    kind.reason: kind for kind in (errors.FormatMismatch, errors.UnsafeImage, errors.CorruptImage, errors.TooLarge)
}


def inspect_apart(path: Path, declared: SourceFormat, virtual_size_limit: int) -> Inspected:
    """Do what `inspect_image` does, and raise what it raises. Blocks.

    Raises:
        UnsafeImage: also where the inspection itself ended badly or took more than ten minutes.
    """
    module = "kumulus_agent.storage.inspection"
    argv = (sys.executable, "-m", module, str(path), declared, str(virtual_size_limit))
    try:
        done = subprocess.run(
            argv, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=_DEADLINE_SECONDS
        )
        answer = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        said = getattr(error, "stderr", None) or b""
        raise errors.UnsafeImage(
            f"the image could not be inspected: {error}: {said.decode(errors='replace')[-500:]}"
        ) from error
    if "refused" in answer:
        raise _REFUSALS[answer["refused"]](answer["message"])
    return Inspected(declared, int(answer["virtualSize"]))

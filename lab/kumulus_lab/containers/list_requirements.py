"""Print the requirements of one of the project's extras, one a line; run while images are built, before the source is there.

Usage: list_requirements.py pyproject.toml EXTRA
"""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

_OWN_EXTRAS = re.compile(r"kumulus\[([^\]]+)\]")


def requirements(project: dict[str, Any], extra: str) -> list[str]:
    """List what an extra needs, with the extras that it names and the project's own dependencies resolved.

    Args:
        project: The table `project` of pyproject.toml.
        extra: The extra's name.

    Raises:
        KeyError: There is no such extra.
    """
    found = set(project["dependencies"])
    for requirement in project["optional-dependencies"][extra]:
        own = _OWN_EXTRAS.fullmatch(requirement)
        if own:
            for name in own.group(1).split(","):
                found.update(requirements(project, name.strip()))
        else:
            found.add(requirement)
    return sorted(found)


if __name__ == "__main__":
    table = tomllib.loads(Path(sys.argv[1]).read_text())["project"]
    sys.stdout.write("".join(f"{line}\n" for line in requirements(table, sys.argv[2])))

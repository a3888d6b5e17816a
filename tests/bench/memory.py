"""Measure what the agent or the operator takes once it is imported, and which packages it is of.

``memory.py agent|operator [RUNS]``: PSS of a process with the settings of our images, and how much of it is its own and
not of files, which it may share; the median of so many runs. Then, in a process of its own whose memory all comes from
malloc, what each package holds when all is imported: what it took and gave back is not in it, for others use that.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

from kumulus_lab.testing import processes

IMPORTS = {"agent": "import kumulus_agent.main, kumulus_agent.agent", "operator": "import kumulus_operator.main"}
SETTINGS = {
    "PYTHONOPTIMIZE": "2",
    "PYTHONNODEBUGRANGES": "1",
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "PYTHONPYCACHEPREFIX": str(Path(__file__).resolve().parents[2] / "build" / "pycache"),
}
"""Those of the Dockerfile; what is compiled so is kept apart."""
_SHOWN = 40
_HELD = """
import collections, ctypes, importlib.machinery, sys
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks "
                "uordblks fordblks keepcost".split()]
libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
def held():
    info = libc.mallinfo2()
    return info.uordblks + info.hblkhd
inside, own = [0], collections.Counter()
def counted(loader):
    run = loader.exec_module
    def exec_module(self, module):
        before = held()
        inside.append(0)
        try:
            run(self, module)
        finally:
            grown, others = held() - before, inside.pop()
            inside[-1] += grown
            own[".".join(module.__name__.split(".")[:1 + module.__name__.startswith("kumulus")])] += grown - others
    loader.exec_module = exec_module
for loader in (importlib.machinery.SourceFileLoader, importlib.machinery.ExtensionFileLoader):
    counted(loader)
"""


def start(code: str, **more: str) -> subprocess.Popen[str]:
    """Start a process that runs code and then waits to be told to end."""
    wait = "\nimport sys; print('.', flush=True); sys.stdin.read()"
    pipe = subprocess.PIPE
    argv = [sys.executable, "-c", code + wait]
    return subprocess.Popen(argv, env=os.environ | SETTINGS | more, stdin=pipe, stdout=pipe, text=True)


def pss(program: str) -> tuple[float, float]:
    """PSS in MiB of a process that has imported all: the whole, and what is not of files."""
    with start(IMPORTS[program]) as process:
        assert process.stdout
        process.stdout.readline()
        whole = processes.of_pid(process.pid).pss_mib
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        process.communicate()
    return whole, next(int(line.split()[1]) / 1024 for line in rollup.splitlines() if line.startswith("Pss_Anon:"))


def held_by_package(program: str) -> str:
    """Give KiB and name of the packages that hold most, one a line."""
    told = f"\nfor name, held in own.most_common({_SHOWN}): print(f'{{held >> 10:6}} {{name}}')"
    with start(_HELD + IMPORTS[program] + told, PYTHONMALLOC="malloc", MALLOC_ARENA_MAX="1") as process:
        return process.communicate()[0].removesuffix(".\n")


def main() -> None:
    """Run and print."""
    program, runs = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3
    pss(program)  # compiles
    whole, own = (statistics.median(found) for found in zip(*(pss(program) for _ in range(runs)), strict=True))
    print(f"{program}: {whole:.1f} MiB PSS, {own:.1f} of it not of files", flush=True)
    print(held_by_package(program), end="")


if __name__ == "__main__":
    main()

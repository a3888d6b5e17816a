"""A Kubernetes cluster as the lab uses it: through kubectl and Helm, as its administrator."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

from kumulus_lab import builds, commands
from kumulus_lab.settings import LabSettings


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs, the lab's own or another.

    Attributes:
        kubeconfig: the file that says where it is and who asks.
        kubectl_program: kubectl.
        helm_program: Helm, version 3 or 4.
    """

    kubeconfig: Path
    kubectl_program: str
    helm_program: str

    @classmethod
    def of_lab(cls, lab: LabSettings) -> "Cluster":
        """The lab's own, with the programs built for it."""
        return cls(lab.kubeconfig, builds.program(lab, "kubectl"), builds.program(lab, "helm3"))

    @classmethod
    def at(cls, kubeconfig: Path, cache: Path) -> "Cluster":
        """Any cluster, with the machine's programs where it has them and built ones elsewhere."""
        programs = []
        for name, build in (("kubectl", builds.KUBE), ("helm", builds.HELM3)):
            found = shutil.which(name)
            if found is None:
                builds.ensure(build, cache)
                found = str(cache / "bin" / (build.rename or name))
            programs.append(found)
        return cls(kubeconfig, *programs)

    def kubectl(
        self, *arguments: str, stdin: str | None = None, timeout: float = 60, check: bool = True
    ) -> CompletedProcess[str]:
        """Run kubectl."""
        return commands.run(self.kubectl_command(*arguments), stdin=stdin, timeout=timeout, check=check)

    def kubectl_command(self, *arguments: str) -> list[str]:
        """The argument list, for callers that run it themselves."""
        return [self.kubectl_program, f"--kubeconfig={self.kubeconfig}", *arguments]

    def helm(self, *arguments: str, timeout: float = 60, check: bool = True) -> CompletedProcess[str]:
        """Run Helm."""
        argv = [self.helm_program, f"--kubeconfig={self.kubeconfig}", *arguments]
        return commands.run(argv, timeout=timeout, check=check)

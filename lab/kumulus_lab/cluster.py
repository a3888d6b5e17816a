"""A Kubernetes cluster as the lab uses it: through kubectl and Helm, as its administrator."""

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
        binaries: the folder with kubectl and Helm.
    """

    kubeconfig: Path
    binaries: Path

    @classmethod
    def of_lab(cls, lab: LabSettings) -> "Cluster":
        """The lab's own."""
        return cls(lab.kubeconfig, builds.bin_directory(lab))

    def kubectl(
        self, *arguments: str, stdin: str | None = None, timeout: float = 60, check: bool = True
    ) -> CompletedProcess[str]:
        """Run kubectl."""
        return commands.run(self.command("kubectl", *arguments), stdin=stdin, timeout=timeout, check=check)

    def helm(self, *arguments: str, timeout: float = 60, check: bool = True) -> CompletedProcess[str]:
        """Run Helm 3."""
        return commands.run(self.command("helm3", *arguments), timeout=timeout, check=check)

    def command(self, program: str, *arguments: str) -> list[str]:
        """The argument list, for callers that run it themselves."""
        return [str(self.binaries / program), f"--kubeconfig={self.kubeconfig}", *arguments]

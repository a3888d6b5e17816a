"""Command line of the lab: ``python -m kumulus_lab up|down|status|kubeconfig|prepare|guests|exec``."""

import os
from typing import Annotated

import typer

from kumulus_lab import builds, elsewhere, packages
from kumulus_lab import guests as guest_images
from kumulus_lab import up as lab_steps
from kumulus_lab.errors import LabError
from kumulus_lab.hosts import Hosts
from kumulus_lab.progress import complain, step
from kumulus_lab.settings import LabSettings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def up(
    hosts: Annotated[int | None, typer.Option(envvar="HOSTS", help="How many hosts; 2, or as many as run.")] = None,
    only_cluster: Annotated[bool, typer.Option("--only-cluster", help="Kubernetes alone, without Kumulus.")] = False,
) -> None:
    """Start the lab, or what of it does not run; with KUBECONFIG set, install Kumulus into that cluster instead."""
    lab = LabSettings.from_environment(hosts)
    other = elsewhere.given(lab)
    neighbour = other and LabSettings.of_kubeconfig(other)
    if neighbour:
        lab_steps.install(neighbour)
    elif other:
        elsewhere.install(other, lab.cache)
    else:
        lab_steps.bring_up(lab, only_cluster=only_cluster)


@app.command()
def down() -> None:
    """Remove the lab; with KUBECONFIG set, remove Kumulus from that cluster. Built programs stay in the cache."""
    lab = LabSettings.from_environment()
    other = elsewhere.given(lab)
    if other:
        elsewhere.uninstall(other, lab.cache)
    else:
        lab_steps.take_down(lab)


@app.command()
def status() -> None:
    """Show what runs."""
    for line in lab_steps.state_lines(LabSettings.from_environment()):
        typer.echo(line)


@app.command()
def kubeconfig() -> None:
    """Print the path of the administrator's kubeconfig."""
    path = LabSettings.from_environment().kubeconfig
    if not path.exists():
        raise LabError("the lab is down; start it with `make up`")
    typer.echo(path)


@app.command()
def prepare() -> None:
    """Install the Debian packages and build the programs that are missing, those of tests too; start nothing."""
    lab_steps.prepare(LabSettings.from_environment(), builds.ALL, (*packages.WANTED, *packages.FOR_TESTS))


@app.command()
def guests() -> None:
    """Build the guest images that the cache lacks, serve them all and print their addresses."""
    lab = LabSettings.from_environment()
    with step("guest images"):
        addresses = [
            build(lab) for build in (guest_images.ensure, guest_images.ensure_uefi, guest_images.ensure_debian)
        ]
    for address in addresses:
        typer.echo(address)


@app.command(name="exec", context_settings={"ignore_unknown_options": True})
def run_on_host(host: str, command: Annotated[list[str], typer.Argument(help="Command, after `--`.")]) -> None:
    """Run a command on a host, with this terminal."""
    argv = Hosts(LabSettings.from_environment()).command(host, command)
    os.execvp(argv[0], argv)  # noqa: S606 - the terminal goes over to it


def main() -> None:
    """Run the command line; errors of the lab are shown without a traceback."""
    try:
        app()
    except LabError as error:
        complain(str(error))
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()

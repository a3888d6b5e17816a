"""`kubectl kumulus`: what kubectl itself has no verb for."""

from __future__ import annotations

from typing import Annotated

import typer

from kumulus_cli import console, explain
from kumulus_cli.kubectl import KubectlError

app = typer.Typer(name="kubectl kumulus", no_args_is_help=True, add_completion=True)

Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="The server's namespace.")]


@app.callback()
def about() -> None:
    """Work with Kumulus servers beyond get, apply and delete."""


@app.command("console-log")
def console_log(
    name: Annotated[str, typer.Argument(help="The Server.")],
    namespace: Namespace = None,
    tail: Annotated[int | None, typer.Option(min=0, help="So many lines from the end.")] = None,
) -> None:
    """Print what a server wrote on its serial console."""
    try:
        typer.echo(console.console_log(name, namespace, tail), nl=False)
    except KubectlError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


@app.command("explain-placement")
def explain_placement(
    name: Annotated[str, typer.Argument(help="The Server.")],
    namespace: Namespace = None,
) -> None:
    """Say for each host why a server fits there or does not, and what each weighs; for those who may list Hosts."""
    try:
        typer.echo(explain.explain_placement(name, namespace), nl=False)
    except KubectlError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app()

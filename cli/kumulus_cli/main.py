"""`kubectl kumulus`: what kubectl itself has no verb for."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from kumulus_cli import kubectl, session, stream, terminal
from kumulus_cli.kubectl import KubectlError
from kumulus_cli.stream import ConsoleError

app = typer.Typer(name="kubectl kumulus", no_args_is_help=True, add_completion=True)

net = typer.Typer(help="Look into networks.", no_args_is_help=True)
app.add_typer(net, name="net")

Name = Annotated[str, typer.Argument(help="The Server.")]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="The server's namespace.")]


@app.callback()
def about() -> None:
    """Work with Kumulus servers beyond get, apply and delete."""


@app.command("console-log")
def console_log(
    name: Name,
    namespace: Namespace = None,
    tail: Annotated[int | None, typer.Option(min=0, help="So many lines from the end.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what the server writes.")] = False,
) -> None:
    """Print what a server wrote on its serial console."""
    query = ({} if tail is None else {"tail": str(tail)}) | ({"follow": "1"} if follow else {})

    async def show() -> None:
        # A guest may write anything; what is printed is text.
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        async for chunk in stream.log(socket, made, query):
            sys.stdout.write(decoder.decode(chunk))
            sys.stdout.flush()
        sys.stdout.write(decoder.decode(b"", final=True))

    with _errors():
        made = session.make(name, namespace, "Log")
        with kubectl.private_proxy() as socket:
            asyncio.run(show())


@app.command("console")
def console(name: Name, namespace: Namespace = None) -> None:
    """Type at a server's serial console; Ctrl-] leaves. What another has open ends."""
    with _errors():
        made = session.make(name, namespace, "Serial")
        with kubectl.private_proxy() as socket:
            ended = asyncio.run(terminal.attach(socket, made))
        if ended:
            raise ConsoleError(ended)


@app.command("vnc")
def vnc(
    name: Name,
    namespace: Namespace = None,
    local: Annotated[bool, typer.Option("--local", help="Lead the browser through this command.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --local: where it listens; 0 for anywhere.")] = 0,
) -> None:
    """Print an address that opens a server's screen in a browser, once, within ten minutes."""
    with _errors():
        made = session.make(name, namespace, "VNC")
        place = f"console.html#{made.namespace}/{made.name}/{made.token}"
        with kubectl.private_proxy() as socket:
            url = asyncio.run(stream.about(socket))
        if url and not local:
            typer.echo(f"{url}/{place}")
            return
        # kubectl leads the browser to the API server with our credentials, but nowhere else than to the proxy.
        only = (f"--port={port}", f"--accept-paths=^{session.SERVICE_PATH}/", "--reject-paths=^$")
        with kubectl.proxy(*only) as address:
            typer.echo(f"http://{address}{session.SERVICE_PATH}/{place}")
            typer.echo("The address works while this command runs; end it with Ctrl-C.", err=True)
            signal.pause()


@app.command("explain-placement")
def explain_placement(
    name: Name,
    namespace: Namespace = None,
) -> None:
    """Say for each host why a server fits there or does not, and what each weighs; for those who may list Hosts."""
    from kumulus_cli import explain  # noqa: PLC0415 - it brings the operator's placement, which others do without

    with _errors():
        typer.echo(explain.explain_placement(name, namespace), nl=False)


@net.callback()
def about_networks() -> None:
    """Look into networks."""


@net.command("trace")
def net_trace(  # noqa: PLR0917 - as many as a packet has
    source: Annotated[str, typer.Argument(help="A Server or Port: NAME, server/NAME or port/NAME.")],
    destination: Annotated[str, typer.Argument(help="The same, floatingip/NAME, or any address.")],
    protocol: Annotated[str | None, typer.Option("--proto", help="tcp, udp or icmp.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Of the destination.")] = None,
    namespace: Namespace = None,
    output: Annotated[str, typer.Option("--output", "-o", help="table or json.")] = "table",
) -> None:
    """Say hop by hop why a packet passes (exit code 0) or is dropped (1), by what the hosts' kernels have now."""
    from kumulus_cli import trace  # noqa: PLC0415 - its models are others' too, but not all commands'

    with _errors(2):
        if output not in ("table", "json"):
            raise KubectlError(f"asked for output {output!r}: there is table and json")
        try:
            found = trace.run(source, destination, protocol, port, namespace)
        except trace.TraceError as error:
            raise KubectlError(str(error)) from error
        typer.echo(
            trace.text_of(found) if output == "table" else json.dumps(trace.json_of(found), indent=2) + "\n", nl=False
        )
        raise typer.Exit(trace.exit_code(found))


@contextlib.contextmanager
def _errors(code: int = 1) -> Iterator[None]:
    """Tell errors as such; Ctrl-C is none. What we have started ends with us, however we are ended."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    try:
        yield
    except (KubectlError, ConsoleError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(code) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


if __name__ == "__main__":
    app()

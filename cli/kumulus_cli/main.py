"""`kubectl kumulus`: what kubectl itself has no verb for."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from kumulus_cli import kubectl, session, stream, terminal
from kumulus_cli.kubectl import KubectlError
from kumulus_cli.stream import ConsoleError

app = typer.Typer(name="kubectl kumulus", no_args_is_help=True, add_completion=True)

net = typer.Typer(help="Look into networks.", no_args_is_help=True)
app.add_typer(net, name="net")

image = typer.Typer(help="Work with images.", no_args_is_help=True)
app.add_typer(image, name="image")

volume = typer.Typer(help="Work with volumes.", no_args_is_help=True)
transfer = typer.Typer(help="Give volumes to other projects.", no_args_is_help=True)
app.add_typer(volume, name="volume")
volume.add_typer(transfer, name="transfer")

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


@image.callback()
def about_images() -> None:
    """Work with images."""


@image.command("list")
def image_list(
    namespace: Namespace = None,
    hidden: Annotated[bool, typer.Option("--hidden", help="Those that are hidden, too.")] = False,
    output: Annotated[str, typer.Option("--output", "-o", help="table or json.")] = "table",
) -> None:
    """List the images that a project may use: its own, those that it accepted, and those of everybody."""
    from kumulus_cli import images  # noqa: PLC0415 - its models are others' too, but not all commands'

    with _errors():
        if output not in ("table", "json"):
            raise KubectlError(f"asked for output {output!r}: there is table and json")
        found, note = images.read(namespace)
        shown = [item for item in found if hidden or not item.hidden]
        typer.echo(images.text_of(shown) if output == "table" else images.json_of(shown), nl=False)
        if note:
            typer.echo(f"note: {note}", err=True)


@image.command("upload")
def image_upload(  # noqa: PLR0913, PLR0917 - as many as an image has
    file: Annotated[Path, typer.Argument(help="The disk, a file on this machine.")],
    name: Annotated[str, typer.Option(help="The Image; made if it is not there. Else as the file is called.")] = "",
    image_format: Annotated[
        str, typer.Option("--format", help="raw, qcow2, iso, vmdk, vhd, vhdx, vdi; else as the file looks.")
    ] = "",
    checksum: Annotated[str, typer.Option(help="sha256:… or sha512:… that the file must have.")] = "",
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="The image's namespace.")] = None,
    min_disk: Annotated[str, typer.Option(help="Root disk that its servers need, such as 10Gi.")] = "",
    min_memory: Annotated[str, typer.Option(help="Memory that its servers need, such as 512Mi.")] = "",
    properties: Annotated[list[str] | None, typer.Option("--property", help="hw_… or os_… as key=value.")] = None,
) -> None:
    """Send a disk to the cloud as an image. What was interrupted goes on when the same command is run again."""
    from kumulus_cli import upload  # noqa: PLC0415 - its models are others' too, but not all commands'
    from kumulus_cli.image_file import Wish  # noqa: PLC0415

    with _errors():
        wish = Wish(name, image_format, checksum, min_disk, min_memory, tuple(properties or ()))
        try:
            upload.run(file, wish, namespace)
        except upload.UploadError as error:
            raise KubectlError(str(error)) from error


@volume.callback()
def about_volumes() -> None:
    """Work with volumes."""


@transfer.command("create")
def transfer_create(
    name: Annotated[str, typer.Argument(help="The Volume.")],
    project: Annotated[str, typer.Option("--to", help="The project that may take it.")],
    called: Annotated[str, typer.Option("--name", help="The VolumeTransfer; else as the volume is called.")] = "",
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="The volume's namespace.")] = None,
) -> None:
    """Offer a volume to another project, and print the command by which that takes it."""
    from kumulus_cli import transfers  # noqa: PLC0415 - not all commands' as the others

    with _errors():
        typer.echo(transfers.offer(name, project, called, namespace))


@transfer.command("accept")
def transfer_accept(
    offer: Annotated[str, typer.Argument(metavar="NAMESPACE/NAME", help="The VolumeTransfer.")],
    name: Annotated[str, typer.Option(help="The Volume that is made.")],
    size: Annotated[str, typer.Option(help="Of it: that of what is offered, or more.")],
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="The project that takes it.")] = None,
) -> None:
    """Take a volume that another project offers."""
    from kumulus_cli import transfers  # noqa: PLC0415

    with _errors():
        transfers.accept(offer, name, size, namespace)
        typer.echo(f"volume {name}: kubectl get volume {name} says when it is there")


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

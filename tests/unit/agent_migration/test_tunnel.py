"""The tunnel between two hosts: who is let in, what is carried, and in which order connections end."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kumulus_agent.migration.certificate_request import make_request
from kumulus_agent.migration.channels import Channel, Denied, Hello, Sockets, libvirt_socket, parse_hello
from kumulus_agent.migration.credentials import Contexts
from kumulus_agent.migration.listener import Listener, Serve
from kumulus_agent.migration.relay import Connection, relay
from kumulus_agent.migration.target import _write
from kumulus_agent.migration.tunnel import Peer, Tunnel
from kumulus_operator.migration.authority import make_authority, sign

HELLO = Hello("demo", "move", "uid-1", "00000000-0000-4000-8000-000000000001", Channel.CONTROL)
AUTHORITY = make_authority(datetime.now(UTC))


def contexts(folder: Path, node: str, authority: dict[str, str] = AUTHORITY) -> Contexts:
    made = make_request(node)
    certificate = sign({**authority, "request": made["request"], "node": node}, datetime.now(UTC))
    file = folder / f"{node}.pem"
    file.write_text(made["key"] + certificate)
    out = []
    for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(protocol)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=AUTHORITY["authority"])
        context.load_cert_chain(file)
        out.append(context)
    return Contexts(*out)


class Host:
    """A target: remembers who came, and answers with what it got."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.came: list[tuple[str, Hello]] = []
        self.allowed = {"h1"}
        self.end = asyncio.Event()
        self.listener = Listener("127.0.0.1", 0, self.admit)

    async def admit(self, peer: str, hello: Hello) -> Serve:
        """Let in who is allowed."""
        if peer not in self.allowed:
            raise Denied("not you")
        self.came.append((peer, hello))
        return self.serve

    async def serve(self, connection: Connection, hello: Hello) -> None:
        """Keep files, echo the rest until told to end."""
        reader, writer = connection
        writer.write(b"ok\n")
        if hello.channel is Channel.FILE:
            await _write(self.folder / hello.file, hello.size, reader)
            writer.write(b"ok\n")
            await writer.drain()
            return
        echo = asyncio.create_task(self.echo(connection))
        ended = asyncio.create_task(self.end.wait())
        await asyncio.wait((echo, ended), return_when=asyncio.FIRST_COMPLETED)
        for task in (echo, ended):
            task.cancel()

    async def echo(self, connection: Connection) -> None:
        """Send back what comes."""
        while data := await connection[0].read(65536):
            connection[1].write(data)
            await connection[1].drain()


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[Host]:
    host = Host(tmp_path)
    context = contexts(tmp_path, "h2").server

    async def provide() -> ssl.SSLContext:
        return context

    await host.listener.open(provide)
    yield host
    await host.listener.close()


@pytest.fixture
async def own_libvirt(tmp_path: Path) -> AsyncIterator[str]:
    ended: list[asyncio.StreamWriter] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(writer)
        while data := await reader.read(1024):
            writer.write(data)
        writer.close()

    path = str(tmp_path / "libvirt.sock")
    server = await asyncio.start_unix_server(connected, path)
    yield path
    server.close()
    for writer in ended:
        writer.close()


def tunnel(folder: Path, host: Host, own: str, *, source: str = "h1", name: str = "h2") -> Tunnel:
    sockets = Sockets(folder / "s")
    sockets.directory.mkdir(exist_ok=True)
    return Tunnel(Peer(name, "127.0.0.1", host.listener.port), contexts(folder, source), HELLO, sockets, own)


async def test_bytes_come_through_both_ways(tmp_path: Path, target: Host, own_libvirt: str) -> None:
    """What goes into a socket of the source comes out at the target, in order, and the answers come back."""
    sent = bytes(range(256)) * 8192
    async with tunnel(tmp_path, target, own_libvirt) as opened:
        for path in (opened.sockets.control, opened.sockets.memory, opened.sockets.disks):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(sent)
            assert await reader.readexactly(len(sent)) == sent
            writer.close()
    assert {hello.channel for _, hello in target.came} == {Channel.CONTROL, Channel.MEMORY, Channel.DISKS}
    assert not (tmp_path / "s").exists()


async def test_a_file_arrives_whole(tmp_path: Path, target: Host, own_libvirt: str) -> None:
    """A sent file is at the target when the call returns, holes where it has holes."""
    file = tmp_path / "disk"
    with file.open("wb") as out:
        out.write(b"x" * 3_000_001)
        out.seek(50_000_000)
        out.write(b"end")
        out.truncate(60_000_000)
    async with tunnel(tmp_path, target, own_libvirt) as opened:
        await opened.send_file(file, "copy")
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()
    assert (tmp_path / "copy").stat().st_blocks < 10_000_000 / 512


@pytest.mark.parametrize("stranger", ["h3", "h2"])
async def test_another_host_is_not_let_in(tmp_path: Path, target: Host, own_libvirt: str, stranger: str) -> None:
    """A host that is no part of the migration gets the reason and nothing else, though its certificate is good."""
    async with tunnel(tmp_path, target, own_libvirt, source=stranger) as opened:
        reader, writer = await asyncio.open_unix_connection(str(opened.sockets.control))
        assert await reader.read() == b""
        writer.close()
        assert "not you" in opened.refusal
    assert target.came == []


async def test_a_target_with_another_name_is_not_trusted(tmp_path: Path, target: Host, own_libvirt: str) -> None:
    """The source talks only to the host whose certificate bears the target's name."""
    async with tunnel(tmp_path, target, own_libvirt, name="h3") as opened:
        with pytest.raises(ssl.SSLCertVerificationError):
            await opened.send_file(Path(__file__), "copy")


async def test_a_foreign_authority_is_not_trusted(tmp_path: Path, target: Host, own_libvirt: str) -> None:
    """A certificate of the right name by another authority opens nothing."""
    opened = tunnel(tmp_path, target, own_libvirt)
    other = contexts(tmp_path, "h1", make_authority(datetime.now(UTC)))
    opened._contexts = other
    async with opened:
        with pytest.raises((OSError, Denied)):
            await opened.send_file(Path(__file__), "copy")
    assert target.came == []


async def test_the_own_libvirt_is_cut_off_before_the_targets_end_is_seen(
    tmp_path: Path, target: Host, own_libvirt: str
) -> None:
    """When the target's libvirtd is lost, libvirt's client can say nothing more to the own one: it wakes no guest."""
    async with tunnel(tmp_path, target, own_libvirt) as opened:
        local = await asyncio.open_unix_connection(str(opened.sockets.local))
        control = await asyncio.open_unix_connection(str(opened.sockets.control))
        for reader, writer in (local, control):
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
        target.end.set()
        assert await control[0].read() == b""
        # At this moment, without waiting: nothing that is written now is carried.
        assert await asyncio.wait_for(local[0].read(), 0.01) == b""
        local[1].close()
        control[1].close()


async def test_relay_passes_on_what_was_sent_before_the_end(tmp_path: Path) -> None:
    """A side that sends and closes at once loses nothing."""
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.set_result(await reader.read())
        writer.close()

    async def middle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_unix_connection(str(tmp_path / "sink"))
        await relay((reader, writer), there)
        there[1].close()
        writer.close()

    servers = [
        await asyncio.start_unix_server(sink, str(tmp_path / "sink")),
        await asyncio.start_unix_server(middle, str(tmp_path / "middle")),
    ]
    _, writer = await asyncio.open_unix_connection(str(tmp_path / "middle"))
    writer.write(b"y" * 2_000_000)
    await writer.drain()
    writer.close()
    data = bytearray(await asyncio.wait_for(got, 5))
    assert len(data) == 2_000_000
    for server in servers:
        server.close()


def test_hello_survives_the_wire() -> None:
    """What a connection says it is for is read as it was written."""
    hello = Hello("demo", "move", "uid", "id", Channel.FILE, "root.qcow2", 12)
    assert parse_hello(hello.line()) == hello


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"[]", b"null", b'{"channel": "shell"}', b"\xff\n", b'{"channel": "file"}']
)
def test_a_wrong_hello_is_denied(line: bytes) -> None:
    """Nothing but a well-formed first line is taken."""
    with pytest.raises(Denied):
        parse_hello(line)


def test_libvirts_socket_is_found() -> None:
    """The socket is that of the URI, else libvirt's own."""
    assert libvirt_socket("qemu:///system") == "/run/libvirt/libvirt-sock"
    assert libvirt_socket("qemu+unix:///system?socket=/tmp/x") == "/tmp/x"

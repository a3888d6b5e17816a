"""What the plugin makes of a file, of an Image that is there already, and of what happens on the way."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kumulus_api import Image
from kumulus_api.testing import make_object
from kumulus_api.upload_messages import Done, Refused, UploadRefusal
from kumulus_cli import image_file, upload
from kumulus_cli.image_file import ImageFile, UploadError, Wish, format_of, name_of, wanted
from kumulus_cli.kubectl import KubectlError
from kumulus_cli.main import app
from kumulus_cli.progress import Lines
from kumulus_cli.sending import Broken, Sending
from kumulus_cli.stream import ConsoleError

DONE = Done(digest="sha256:" + "0" * 64)
BUSY = Refused(refused=UploadRefusal.BUSY, message="another sends")


class Remembered:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def at(self, done: int) -> None:
        """Forget it."""

    def say(self, text: str) -> None:
        """Remember it."""
        self.said.append(text)


def image(**status: Any) -> dict[str, Any]:
    body = make_object(Image, "golden", source={"upload": {}}, checksum=None)
    body["status"] = {"importHost": "h1", "conditions": []} | status
    return body


def ready(status: str, reason: str = "Imported") -> list[dict[str, Any]]:
    return [{"type": "Ready", "status": status, "reason": reason, "message": "because"}]


@pytest.mark.parametrize(
    ("content", "declared", "found"),
    [
        (b"QFI\xfb", "", "qcow2"),
        (b"QFI\xfb", "qcow2", "qcow2"),
        (b"anything", "", "raw"),
        (b"\0" * 0x8001 + b"CD001", "", "iso"),
        (b"\0" * 0x8001 + b"CD001", "raw", "raw"),
        (b"\x1f\x8b", "raw", "raw"),
    ],
)
def test_a_format_is_seen(tmp_path: Path, content: bytes, declared: str, found: str) -> None:
    """The format is what the user says, else what the file begins with."""
    file = tmp_path / "disk"
    file.write_bytes(content)
    assert format_of(file, declared) == found


@pytest.mark.parametrize(
    ("content", "declared", "chosen"),
    [(b"KDMV", "", "vmdk"), (b"vhdxfile", "", "vhdx"), (b"anything", "vhd", "vhd"), (b"anything", "", "raw")],
)
def test_what_hosts_convert_is_sent(tmp_path: Path, content: bytes, declared: str, chosen: str) -> None:
    """A disk of another hypervisor is an Image of its format; one that does not show it is what the user says."""
    file = tmp_path / "disk"
    file.write_bytes(content)
    assert format_of(file, declared) == chosen


@pytest.mark.parametrize(
    ("content", "declared", "word"),
    [
        (b"QFI\xfb", "raw", "looks like qcow2, not like raw"),
        (b"anything", "qcow2", "looks like raw, not like qcow2"),
        (b"\x1f\x8b", "", "unpack it first"),
        (b"anything", "zfs", "none of raw, qcow2, iso"),
    ],
)
def test_another_format_is_told_before_it_is_sent(tmp_path: Path, content: bytes, declared: str, word: str) -> None:
    """What hosts would refuse after hours is refused at once."""
    file = tmp_path / "disk"
    file.write_bytes(content)
    with pytest.raises(UploadError, match=word):
        format_of(file, declared)


def test_an_image_is_called_as_its_file() -> None:
    """Without a name the file's is taken, if an object can be called so."""
    assert name_of(Path("/x/Debian_13.1.qcow2")) == "debian-13.1"
    with pytest.raises(UploadError, match="--name"):
        name_of(Path("/x/ä.qcow2"))


def test_the_image_says_what_the_user_said() -> None:
    """Size, format and what was given stand in the Image, and nothing else."""
    body = wanted("golden", "raw", 42, Wish(), None)
    assert body["spec"] == {"source": {"upload": {"size": "42"}}, "format": "raw"}
    assert body["metadata"] == {"name": "golden"}
    wish = Wish(checksum="sha256:" + "0" * 64, min_disk="1Gi", properties=("hw_firmware_type=uefi",))
    spec = wanted("golden", "raw", 42, wish, "demo")["spec"]
    assert (spec["checksum"], spec["minDisk"], spec["properties"]) == (
        wish.checksum, "1Gi", {"hw_firmware_type": "uefi"}
    )  # fmt: skip
    Image.model_validate(wanted("golden", "raw", 42, wish, "demo"))
    with pytest.raises(UploadError, match="key=value"):
        wanted("golden", "raw", 42, Wish(properties=("uefi",)), None)


@pytest.mark.parametrize(
    ("body", "wish", "word"),
    [
        (make_object(Image, "golden"), Wish(), "comes from elsewhere"),
        (image(conditions=ready("True"), digest="sha256:abc"), Wish(), "is whole .sha256:abc."),
        (image(), Wish(format="iso"), "with format qcow2, not iso"),
        (image(), Wish(checksum="sha256:abc"), "with checksum none"),
        (image(), Wish(), "looks like raw, not like qcow2"),
    ],
)
def test_what_is_there_already_is_told(tmp_path: Path, body: dict[str, Any], wish: Wish, word: str) -> None:
    """An Image that is another, or whole, gets no bytes of this file."""
    path = tmp_path / "disk"
    path.write_bytes(b"anything")
    with closing(ImageFile(path)) as file, pytest.raises(UploadError, match=word):
        upload.fits(body, file, wish)


def test_a_file_is_gone_on_with_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From any offset the rest is read, the hash is that of all, and what was hashed is not read again."""
    monkeypatch.setattr(image_file, "_MARK", 1 << 18)
    content = os.urandom((1 << 20) + 5)
    path = tmp_path / "disk"
    path.write_bytes(content)
    with closing(ImageFile(path)) as file:
        while file.read():
            pass
        for offset in (len(content), 1 << 19, 700_001, 0, 5):
            file.go_to(offset)
            assert file.sha256 == hashlib.sha256(content[:offset]).hexdigest()
            assert b"".join(iter(file.read, b"")) == content[offset:]
            assert file.sha256 == hashlib.sha256(content).hexdigest()
        assert not file.changed
        os.utime(path, (1, 1))
        assert file.changed


def test_a_host_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command waits for a host, but not for one that a quota keeps away, and says why there is none."""
    bodies: list[dict[str, Any]] = []
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(upload.kubectl, "get", lambda *_: bodies.pop(0))
    monkeypatch.setattr(upload.kubectl, "run", lambda *words: asked.append(words) or "")
    none = image() | {"status": {}}
    waiting = image() | {"status": {"conditions": ready("False", "WaitingForHost")}}
    bodies[:] = [none, image()]
    assert upload._named("demo", "golden") == image()
    assert len(asked) == 1
    bodies[:] = [none, waiting, waiting]
    with pytest.raises(UploadError, match="golden: because"):
        upload._named("demo", "golden")
    assert len(asked) == 3
    bodies[:] = [none, image() | {"status": {"conditions": ready("False", "QuotaExceeded")}}]
    with pytest.raises(UploadError, match="golden: because"):
        upload._named("demo", "golden")
    assert len(asked) == 4


@pytest.fixture
def attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Sending, Remembered]]:
    """Send over connections that end as they are told to, without a pause."""
    path = tmp_path / "disk"
    path.write_bytes(b"anything")

    def go(*outcomes: Any, images: tuple[dict[str, Any], ...] = ()) -> tuple[Sending, Remembered]:
        show, left, bodies = Remembered(), list(outcomes), list(images)
        with closing(ImageFile(path)) as file:
            sending = Sending(file, "s" * 32, show)

            def sent(_sending: Sending, _image: Any) -> Any:
                outcome = left.pop(0) if left else Broken("it is cut")
                if isinstance(outcome, tuple):
                    sending.done, sending.all_sent, outcome = outcome
                if isinstance(outcome, Exception):
                    raise outcome
                return outcome

            monkeypatch.setattr(upload, "_named", lambda *_: bodies.pop(0) if bodies else image())
            monkeypatch.setattr(upload, "_sent", sent)
            monkeypatch.setattr(upload.time, "sleep", lambda _: None)
            upload._Attempts(sending, show, "demo", "golden").until_done()
        return sending, show

    return go


def test_what_passes_is_tried_again(attempts: Callable[..., tuple[Sending, Remembered]]) -> None:
    """Cut connections, a host that is away and another sender are waited for; what happens is told."""
    _, show = attempts(Broken("it is cut"), ConsoleError("host h1 is not reached", 502), BUSY, DONE)
    assert [text.split(";")[0] for text in show.said] == ["it is cut", "host h1 is not reached", "another sends"]


def test_progress_gives_new_patience(attempts: Callable[..., tuple[Sending, Remembered]]) -> None:
    """As long as each connection brings something, there are as many as it takes; else it is given up with a word."""
    attempts(*((number, False, Broken("it is cut")) for number in range(30)), DONE)
    with pytest.raises(UploadError, match="it is cut; 7 bytes are there: the same command goes on"):
        attempts((7, False, Broken("it is cut")))


@pytest.mark.parametrize(
    ("outcome", "word"),
    [
        (ConsoleError("services/proxy is forbidden", 403), "is forbidden"),
        (Refused(refused=UploadRefusal.NO_ROOM, message="host h1 lacks 5 bytes"), "NoRoom: host h1 lacks 5 bytes"),
        (Refused(refused=UploadRefusal.IMAGE, message="FormatMismatch: is vmdk"), "FormatMismatch"),
        (UploadError("somebody has ended it"), "ended it"),
    ],
)
def test_what_stays_is_told_at_once(
    attempts: Callable[..., tuple[Sending, Remembered]], outcome: Any, word: str
) -> None:
    """What another attempt would meet again ends the command with the reason."""
    with pytest.raises(UploadError, match=word):
        attempts(outcome)


def test_kubectls_refusals_end_it_and_its_absence_is_waited_for(
    attempts: Callable[..., tuple[Sending, Remembered]],
) -> None:
    """What the API server refuses ends the command; that it is away does so only at first."""
    gone = KubectlError('Error from server (NotFound): images.kumulus.dev "golden" not found')
    away = KubectlError("The connection to the server was refused")
    with pytest.raises(KubectlError):
        attempts(away)
    attempts(Broken("it is cut"), away, KubectlError("Error from server (ServiceUnavailable): x"), DONE)
    with pytest.raises(UploadError, match="NotFound"):
        attempts(Broken("it is cut"), gone)


def test_the_verdict_is_seen_after_a_break(attempts: Callable[..., tuple[Sending, Remembered]]) -> None:
    """If the connection is cut while the host looks into the image, the Image says what became of it."""
    cut = (8, True, Broken("it is cut"))
    attempts(cut, images=(image(), image(conditions=ready("True"))))
    with pytest.raises(UploadError, match="CorruptImage: because"):
        attempts(cut, images=(image(), image(conditions=ready("False", "CorruptImage"))))


def test_another_host_is_told(attempts: Callable[..., tuple[Sending, Remembered]]) -> None:
    """If another host is named meanwhile, the user is told that all is sent again."""
    _, show = attempts(Broken("it is cut"), DONE, images=(image(), image(importHost="h2")))
    assert any("h2 was named, and the upload begins anew" in text for text in show.said)


def test_lines_tell_each_tenth_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no terminal, an upload of any size has a dozen lines."""
    lines = Lines(1000)
    for done in range(0, 1001, 7):
        lines.at(done)
    lines.at(1000)
    assert len(capsys.readouterr().out.splitlines()) == 10


@pytest.mark.parametrize(("content", "word"), [(None, "is not there"), (b"", "is empty")])
def test_no_file_is_told(tmp_path: Path, content: bytes | None, word: str) -> None:
    """The command says what is wrong with the file, and asks nobody else."""
    path = tmp_path / "disk"
    if content is not None:
        path.write_bytes(content)
    done = CliRunner().invoke(app, ["image", "upload", str(path)])
    assert (done.exit_code, word in done.output) == (1, True)
    assert "is no file" in CliRunner().invoke(app, ["image", "upload", str(tmp_path)]).output


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file, and its Image as kubectl has it."""
    body = image() | {"spec": {"source": {"upload": {}}, "format": "raw"}}
    monkeypatch.setattr(upload.kubectl, "run", lambda *_: json.dumps(body))
    path = tmp_path / "golden.raw"
    path.write_bytes(b"anything")
    return path


def test_the_end_is_told_with_the_hash(found: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command ends with what the file hashes to, also if it is another connection that has seen the end."""
    monkeypatch.setattr(upload._Attempts, "until_done", lambda _: None)
    done = CliRunner().invoke(app, ["image", "upload", str(found)])
    assert done.exit_code == 0
    assert "image demo/golden is ready: 8 bytes" in done.output
    assert f"sha256:{hashlib.sha256(b'anything').hexdigest()}\n" in done.output


def test_an_interrupted_command_says_how_it_goes_on(found: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the command with how far it is, and is no error."""

    def interrupted(attempts: Any) -> None:
        attempts._sending.done = 5
        raise KeyboardInterrupt

    monkeypatch.setattr(upload._Attempts, "until_done", interrupted)
    done = CliRunner().invoke(app, ["image", "upload", str(found)])
    assert (done.exit_code, "interrupted at 5 of 8 bytes" in done.output) == (130, True)
    assert "error" not in done.output

"""The list of a backup's chunks: what was written is read, and whatever else is refused."""

import hashlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumulus_agent.backups.manifest import DIGEST, HOLE, Damaged, Head, Manifest, decode, open_chunk, pack

DIGESTS = st.lists(st.one_of(st.just(HOLE), st.binary(min_size=DIGEST, max_size=DIGEST)), max_size=40)


def make(digests: list[bytes], short: int = 0, chunk: int = 4096, **head: str) -> Manifest:
    """Give the manifest of a volume whose last chunk lacks some bytes."""
    names = dict.fromkeys(("backup_id", "chain", "parent", "volume_id", "name", "consistency", "taken_at"), "x")
    size = max(0, len(digests) * chunk - (short if digests else 0))
    return Manifest(Head(**(names | head), size=size, chunk=chunk), b"".join(digests))


@given(DIGESTS, st.integers(0, 4095), st.text(max_size=20))
def test_a_manifest_is_read_as_it_was_written(digests: list[bytes], short: int, name: str) -> None:
    """Head, order and holes; the chunks have the volume's length together."""
    manifest = make(digests, short, name=name)
    again = decode(manifest.encode())
    assert again == manifest
    assert again.digest == manifest.digest
    assert list(again.chunks()) == digests
    assert again.named() == set(digests) - {HOLE}
    assert sum(again.length(index) for index in range(len(digests))) == manifest.head.size


@given(DIGESTS, st.data())
def test_a_damaged_manifest_is_never_read(digests: list[bytes], data: st.DataObject) -> None:
    """Cut off, with another byte or something behind it: it is refused, or it reads as it was."""
    manifest = make(digests)
    content = bytearray(manifest.encode())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        assert decode(bytes(content)) == manifest
    except Damaged:
        return


@given(st.binary(max_size=200))
def test_what_is_no_manifest(content: bytes) -> None:
    """Whatever lies in the bucket is refused with one kind of error."""
    with pytest.raises(Damaged):
        decode(content)


@given(DIGESTS, st.integers(0, 39))
def test_the_digest_of_the_whole(digests: list[bytes], which: int) -> None:
    """It is another one for another size, order or chunk, and the same whoever made the backup and when."""
    manifest = make(digests)
    assert make(digests, name="other", taken_at="later").digest == manifest.digest
    assert make([*digests, HOLE]).digest != manifest.digest
    if digests:
        assert make(digests, short=512).digest != manifest.digest
        changed = list(digests)
        changed[which % len(digests)] = hashlib.sha256(changed[which % len(digests)]).digest()
        assert make(changed).digest != manifest.digest


@given(st.binary(min_size=1, max_size=5000), st.integers(0, 255), st.data())
def test_chunks(noise: bytes, fill: int, data: st.DataObject) -> None:
    """What compresses and what does not come back; with another byte, or cut off, they do not."""
    for content in (noise, bytes([fill]) * 4096):
        digest, stored = hashlib.sha256(content).digest(), pack(content)
        assert len(stored) <= len(content) + 1
        assert open_chunk(stored, digest, len(content)) == content
        harmed = bytearray(stored)
        harmed[data.draw(st.integers(0, len(stored) - 1))] ^= data.draw(st.integers(1, 255))
        with suppress(Damaged):
            assert open_chunk(bytes(harmed), digest, len(content)) == content
        with pytest.raises(Damaged):
            open_chunk(stored[:-1], digest, len(content))


def test_a_bomb_is_not_unpacked() -> None:
    """A chunk that claims to be larger than its volume's chunks is refused before it takes memory."""
    with pytest.raises(Damaged, match="more than 4096 bytes"):
        open_chunk(pack(bytes(64 << 20)), bytes(DIGEST), 4096)

"""Images in a bucket of a real S3 server: whole or absent, resumed, removed; and the store and source made of it."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kumulus_agent.images.kept import is_for
from kumulus_agent.images.stores import ImageStores
from kumulus_agent.storage.bucket_apart import Bucket, BucketAddress
from kumulus_agent.storage.download import Validators, note
from kumulus_agent.storage.errors import ChecksumMismatch, DownloadFailed, StoreFailed, TooLarge
from kumulus_agent.storage.image_cache import CachedImage
from kumulus_agent.storage.image_store import ImageStore
from kumulus_api import Image
from kumulus_lab.testing.image_hosts import ADDRESS, KEY, LIMIT, OWNER, Pair
from kumulus_lab.testing.s3_server import ACCESS_KEY, SECRET_KEY, S3Server

SIZE = 40 << 20
HALF = 20 << 20


@pytest.fixture
def address(s3: S3Server) -> BucketAddress:
    """A bucket of the server, which makes it when something is put there."""
    return BucketAddress(s3.endpoint, "images", keys=s3.keys)


@pytest.fixture
def bucket(address: BucketAddress) -> Bucket:
    """The bucket."""
    return Bucket(address)


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of several pieces."""
    made = tmp_path_factory.mktemp("file") / "image"
    made.write_bytes(os.urandom(1 << 20) * (SIZE >> 20))
    return made


def contents(file: Path) -> bytes:
    """Give a file's bytes."""
    return file.read_bytes()


def sha256(file: Path) -> str:
    """Give a file's digest."""
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


async def test_what_is_put_is_fetched(bucket: Bucket, file: Path, tmp_path: Path) -> None:
    """A file comes back byte for byte, with its digests; to put it again changes nothing; removed it is not there."""
    digest, part = sha256(file), tmp_path / "part"
    await bucket.put(file, "once/a/x.img", digest)
    before = await bucket._ask("head", key="once/a/x.img")
    await bucket.put(file, "once/a/x.img", digest)
    assert await bucket._ask("head", key="once/a/x.img") == before
    done = await bucket.fetch("u", "once/a/x.img", part, LIMIT, etag=digest)
    assert (f"sha256:{done.sha256}", done.size) == (digest, SIZE)
    assert await asyncio.to_thread(sha256, part) == digest
    await bucket.put(file, "once/ab/x.img", digest)
    await bucket.remove("once/a/")
    await bucket.remove("once/a/")
    with pytest.raises(DownloadFailed, match="not found"):
        await bucket.fetch("u", "once/a/x.img", tmp_path / "other", LIMIT, etag=digest)
    await bucket.fetch("u", "once/ab/x.img", tmp_path / "other", LIMIT, etag=digest)


async def test_a_transfer_goes_on_where_it_stopped(bucket: Bucket, file: Path, tmp_path: Path) -> None:
    """What has come is not fetched again: other bytes at its begin are found in the file, and by their digest."""
    digest, part = sha256(file), tmp_path / "part"
    await bucket.put(file, "resumed", digest)
    part.write_bytes(bytes(HALF))
    note(part, Validators("u", etag=digest))
    done = await bucket.fetch("u", "resumed", part, LIMIT, etag=digest)
    assert (done.size, f"sha256:{done.sha256}") == (SIZE, sha256(part))
    content = contents(part)
    assert content[:HALF] == bytes(HALF)
    assert content[HALF:] == contents(file)[HALF:]
    note(part, Validators("u", etag="another"))
    done = await bucket.fetch("u", "resumed", part, LIMIT, etag=digest)
    assert f"sha256:{done.sha256}" == digest


async def test_two_never_write_one_file(bucket: Bucket, file: Path, tmp_path: Path) -> None:
    """A transfer that its agent has not outlived is not joined by that of the next agent."""
    digest, part = sha256(file), tmp_path / "part"
    await bucket.put(file, "twice", digest)
    part.touch()
    note(part, Validators("u", etag=digest))
    with part.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DownloadFailed, match="another process"):
            await bucket.fetch("u", "twice", part, LIMIT, etag=digest)
    assert (await bucket.fetch("u", "twice", part, LIMIT, etag=digest)).size == SIZE


async def test_an_object_that_changes_is_fetched_anew(bucket: Bucket, file: Path, tmp_path: Path) -> None:
    """Half of one version and half of another are never put together."""
    part, other = tmp_path / "part", tmp_path / "other"
    other.write_bytes(bytes(SIZE))
    await bucket.put(file, "changing", sha256(file))
    version = (await bucket._ask("head", key="changing"))["etag"]
    part.write_bytes(contents(file)[:HALF])
    note(part, Validators("u", etag=version))
    await bucket.put(other, "changing", sha256(other))
    done = await bucket.fetch("u", "changing", part, LIMIT)
    assert f"sha256:{done.sha256}" == sha256(other)


async def test_what_is_put_under_another_digest_is_not_there(bucket: Bucket, file: Path, tmp_path: Path) -> None:
    """Bytes that are not those that were meant are refused after reading back, and removed."""
    with pytest.raises(StoreFailed, match="is not what was put there"):
        await bucket.put(file, "wrong", "sha256:" + "0" * 64)
    with pytest.raises(DownloadFailed, match="not found"):
        await bucket.fetch("u", "wrong", tmp_path / "part", LIMIT)


async def test_half_an_upload_is_no_object(address: BucketAddress, bucket: Bucket, file: Path, tmp_path: Path) -> None:
    """A process that is killed while it puts a file leaves nothing that could be read."""
    large = tmp_path / "large"
    large.touch()
    os.truncate(large, 1 << 30)
    request = address.request() | {"verb": "put", "file": str(large), "key": "half", "digest": "sha256:" + "0" * 64}
    await asyncio.to_thread(_killed_midway, json.dumps(request).encode())
    with pytest.raises(DownloadFailed, match="not found"):
        await bucket.fetch("u", "half", tmp_path / "part", LIMIT)


def _killed_midway(request: bytes) -> None:
    """Have a process put a file, and kill it when it has read some of it."""
    command = [sys.executable, "-m", "kumulus_agent.storage.bucket"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(request)
        process.stdin.close()
        while process.poll() is None and _read_bytes(Path(f"/proc/{process.pid}/io")) < (64 << 20):
            time.sleep(0.01)
        process.kill()


def _read_bytes(io: Path) -> int:
    return int(next(line for line in io.read_text().splitlines() if line.startswith("rchar")).split()[1])


async def test_limits_and_refusals(address: BucketAddress, bucket: Bucket, file: Path, tmp_path: Path) -> None:
    """A file above the limit is not fetched; wrong keys, no keys and an absent service say so without the keys."""
    await bucket.put(file, "large", sha256(file))
    part = tmp_path / "part"
    with pytest.raises(TooLarge, match=f"{SIZE} bytes"):
        await bucket.fetch("u", "large", part, SIZE - 1)
    assert part.stat().st_size == 0
    for keys in ((ACCESS_KEY, "wrong-and-secret"), None):
        with pytest.raises(DownloadFailed) as caught:
            await Bucket(replace(address, keys=keys)).fetch("u", "large", part, LIMIT)
        assert "wrong-and-secret" not in str(caught.value)
    with pytest.raises(DownloadFailed):
        await Bucket(replace(address, endpoint="http://127.0.0.1:1")).fetch("u", "large", part, LIMIT)
    with pytest.raises(StoreFailed):
        await Bucket(replace(address, keys=(ACCESS_KEY, "wrong-and-secret"))).put(file, "denied", sha256(file))


async def test_the_agent_never_loads_the_library() -> None:
    """What speaks S3 is no part of the agent's process."""
    code = "import sys, kumulus_agent.agent; print('obstore' in sys.modules)"
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.strip() == b"False"


class Hosts(Pair):
    """Two hosts that know a bucket."""

    def __init__(self, folder: Path, address: BucketAddress, prefix: str) -> None:
        super().__init__(folder)
        self.asked: list[Any] = []
        api: Any = self.api
        self.stores = []
        for name, side in (("h1", self.h1), ("h2", self.h2)):
            stores = ImageStores(api, name, side.exchange, (Bucket(address), prefix), self.keys)
            side.cache = side.held._cache = side.kept._cache = ImageStore(folder / name, LIMIT, from_host=stores.fetch)
            side.held.put, side.held.find, side.held.remove = stores.put, stores.find, stores.remove
            self.stores.append(stores)

    async def keys(self, image: tuple[str, str]) -> tuple[str, str]:
        """Give the keys of a source, as the operator does."""
        self.asked.append(image)
        return ACCESS_KEY, SECRET_KEY

    async def image(self) -> CachedImage:
        """Have h1 make an image whose Image says that it is kept in the bucket."""
        image = await self.h1.cache.adopt(await self.made(), ADDRESS, OWNER, LIMIT)
        body = self.say(image)
        body["spec"]["assignment"] = {"store": "S3", "hosts": []}
        return image


@pytest.fixture
async def hosts(tmp_path: Path, address: BucketAddress) -> AsyncIterator[Hosts]:
    """Two hosts; nobody serves images to the other."""
    made = Hosts(tmp_path, address, f"{tmp_path.name}/")
    yield made
    await made.close()


async def test_a_bucket_keeps_an_image(hosts: Hosts, bucket: Bucket) -> None:
    """The host that has it puts it there and keeps no copy of its own; others read it there; it goes with its Image."""
    image = await hosts.image()
    await hosts.stores[0].put(KEY, image)
    body = hosts.api.objects[Image, "golden"]
    assert not is_for(body, "h1", {})
    await hosts.h1.look(body)
    assert hosts.h1.tells() == []
    fetched = await asyncio.gather(*(hosts.fetch(image.digest) for _ in range(5)))
    assert fetched[0].path.read_bytes() == image.path.read_bytes()
    assert ADDRESS in await hosts.h2.cache.held()
    body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    await hosts.h1.look(body)
    assert hosts.api.released == ["golden"]
    assert (await bucket._ask("remove", prefix=hosts.stores[0]._folder(KEY)))["removed"] == 0


async def test_a_restored_image_is_found_in_the_bucket(hosts: Hosts) -> None:
    """An Image of which a backup has only the spec is told anew by a host that never had its bytes."""
    image = await hosts.image()
    await hosts.stores[0].put(KEY, image)
    body = hosts.api.objects[Image, "golden"]
    body["status"] = {"importHost": "h2"}
    await hosts.h2.look(body)
    (told,) = hosts.api.told
    assert (told["digest"], told["conditions"][0]["status"]) == (image.digest, "True")


async def test_an_image_deleted_as_it_is_put_leaves_no_object(hosts: Hosts, bucket: Bucket) -> None:
    """Whoever comes last removes it."""
    image = await hosts.image()
    hosts.api.objects[Image, "golden"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    await hosts.stores[0].put(KEY, image)
    assert (await bucket._ask("remove", prefix=hosts.stores[0]._folder(KEY)))["removed"] == 0


async def test_a_bucket_is_a_source(hosts: Hosts, bucket: Bucket, address: BucketAddress) -> None:
    """An image is imported from a project's bucket by the keys of its Secret, compared with the user's checksum."""
    part = await hosts.made()
    digest = sha256(part)
    await bucket.put(part, "disks/golden.qcow2", digest)
    where = {"endpoint": address.endpoint, "bucket": "images", "key": "disks/golden.qcow2", "secret": {"name": "keys"}}
    body: dict[str, Any] = {"metadata": {"name": "golden", "namespace": "demo", "uid": "1"}}
    body["spec"] = {"source": {"s3": where}, "format": "qcow2", "assignment": {"store": "Hosts", "hosts": ["h1"]}}
    hosts.api.objects[Image, "golden"] = body
    with pytest.raises(ChecksumMismatch):
        await hosts.h1.cache.ensure(ADDRESS, "sha512:" + "0" * 128, "qcow2", LIMIT)
    image = await hosts.h1.cache.ensure(ADDRESS, None, "qcow2", LIMIT)
    assert image.digest == digest
    assert hosts.asked == [KEY, KEY]
    with pytest.raises(TooLarge):
        await hosts.h2.cache.ensure(ADDRESS, None, "qcow2", 1 << 20)

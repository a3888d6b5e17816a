"""Which hosts get the key of a volume, and which key a volume has."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from kumulus_api import Server, Volume, VolumeClass
from kumulus_api.testing import VOLUME_ID, make_assigned, make_object
from kumulus_api.volume_encryption import AssignedEncryption
from kumulus_operator.bootdata.server import BootData, Denied
from kumulus_operator.refusal import Refused
from kumulus_operator.volumes.keys import encryption_for, encryption_of_copy

CONTENT = b"thirty-two bytes, or some more of them"
HOW = {"cipher": "aes-xts-plain64", "keySize": 512, "secret": {"name": "volume-key-1"}, "made": True}
OTHER_ID = "00000000-0000-4000-8000-0000000000dd"


class Client:
    """A project with a volume, the server that has it, and a Secret."""

    def __init__(self, holder: str, target: str | None = None, volume_id: str = VOLUME_ID) -> None:
        self.volume, self.server = make_assigned(Volume, "sealed", "h1"), make_assigned(Server, "web", holder)
        self.volume["spec"]["assignment"] |= {"encryption": HOW, "attachedTo": "web", "volumeID": VOLUME_ID}
        held = {"name": "data", "volume": "sealed", "volumeID": volume_id, "size": "1Gi"}
        moves = {"target": target} if target is not None else {}
        self.server["spec"]["assignment"] |= {"volumes": [held], **moves}

    async def get(self, kind: Any, _name: str, _namespace: str) -> dict[str, Any]:
        """Give an object."""
        if kind is Volume:
            return self.volume
        return self.server if kind is Server else {"data": {"key": base64.b64encode(CONTENT).decode()}}


@pytest.mark.parametrize(
    ("client", "hosts"),
    [
        (Client("h1"), {"h1"}),
        (Client("h1", "h2"), {"h1", "h2"}),
        (Client("h3"), {"h1", "h3"}),
        (Client("h3", "h2", OTHER_ID), {"h1"}),
    ],
)
async def test_only_hosts_that_work_with_a_volume_get_its_key(client: Client, hosts: set[str]) -> None:
    """Its own, that of the server that was given it, and where this migrates to."""
    data = BootData(client)  # type: ignore[arg-type]
    for host in ("h1", "h2", "h3", "h4"):
        if host in hosts:
            given = await data.volume_key(host, "demo", "sealed")
            assert base64.b64decode(given["key"]) == CONTENT
            continue
        with pytest.raises(Denied) as caught:
            await data.volume_key(host, "demo", "sealed")
        assert caught.value.status == 403


def volume(uid: str = "u1", **spec: Any) -> Volume:
    """Give a volume that is not bound."""
    body = make_object(Volume, "data", **spec)
    body["metadata"]["uid"] = uid
    return Volume.model_validate(body)


def test_a_class_says_whether_a_volume_is_encrypted() -> None:
    """Its key is made or given; one that is given for a class that does not encrypt is refused, not forgotten."""
    plain = VolumeClass.model_validate(make_object(VolumeClass, "plain"))
    sealed = VolumeClass.model_validate(make_object(VolumeClass, "sealed", encryption={"keySize": 256}))
    assert encryption_for(volume(), None) is None
    assert encryption_for(volume(), plain) is None
    made = encryption_for(volume(), sealed)
    assert made is not None
    assert (made.key_size, made.secret.name, made.secret.key, made.made) == (256, "volume-key-u1", "key", True)
    own = {"secret": {"name": "mine", "key": "k"}}
    given = encryption_for(volume(encryption=own), sealed)
    assert given is not None
    assert (given.secret.name, given.secret.key, given.made) == ("mine", "k", False)
    for found in (plain, None):
        with pytest.raises(Refused) as caught:
            encryption_for(volume(encryption=own), found)
        assert caught.value.refusal.reason == "ClassNotEncrypted"


def test_a_copy_is_as_what_it_is_of() -> None:
    """Encrypted alike, with a Secret of its own for a key that was made; a user's own key is not copied."""
    place = Volume.model_validate(make_assigned(Volume, "data", "h1")).spec.assignment
    assert place is not None
    assert encryption_of_copy(volume("u2"), place) is None
    assert encryption_of_copy(volume("u2"), None) is None
    how = AssignedEncryption.model_validate(HOW)
    copy = encryption_of_copy(volume("u2"), place.model_copy(update={"encryption": how}))
    assert copy is not None
    assert (copy.secret.name, copy.made, copy.key_size) == ("volume-key-u2", True, 512)
    theirs = how.model_copy(update={"made": False})
    assert encryption_of_copy(volume("u2"), place.model_copy(update={"encryption": theirs})) == theirs

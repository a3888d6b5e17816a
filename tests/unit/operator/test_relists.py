"""Deletions that are seen by what a list does not hold."""

from kumulus_api import Flavor
from kumulus_api.testing import make_object
from kumulus_operator.relists.controller import absent


def make_flavor(name: str, uid: str, version: int) -> Flavor:
    """Give a flavor as it was seen."""
    body = make_object(Flavor, name)
    body["metadata"] |= {"uid": uid, "resourceVersion": str(version)}
    return Flavor.model_validate(body)


def test_only_what_is_older_than_the_list_is_gone() -> None:
    """What is not in the list is gone, unless it was made after it; a successor of the same name is another object."""
    known = [make_flavor("kept", "1", 5), make_flavor("gone", "2", 6), make_flavor("young", "3", 11)]
    known.append(make_flavor("again", "4", 7))
    listed = [make_flavor("kept", "1", 8), make_flavor("again", "5", 9)]
    gone = absent(known, [item.model_dump(by_alias=True) for item in listed], 10)
    assert [item.metadata.name for item in gone] == ["gone", "again"]

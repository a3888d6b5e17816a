"""What seals the chunks of encrypted volumes: the same for the same only, and of no use without the key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumulus_agent.backups.seals import OVERHEAD, Seal, WrongSeal

KEY = b"a key of tests, which is as long as one of a volume"
SEAL = Seal(KEY, "chain")
OTHERS = (Seal(KEY + b".", "chain"), Seal(KEY, "other chain"))


@given(st.binary(min_size=1, max_size=4096), st.integers(0, 1 << 24))
def test_what_is_sealed_comes_back(data: bytes, index: int) -> None:
    """Closed and opened it is as it was; the same at the same place is sealed alike, and at no other."""
    closed = SEAL.close(index, data)
    assert SEAL.open(index, closed) == data
    assert len(closed) == len(data) + OVERHEAD
    assert closed == Seal(KEY, "chain").close(index, bytearray(data))
    assert closed not in {SEAL.close(index + 1, data), *(other.close(index, data) for other in OTHERS)}


@pytest.mark.parametrize("other", OTHERS)
def test_nobody_else_opens_it(other: Seal) -> None:
    """Another key, chain or place opens nothing, nor does a changed byte pass."""
    closed = SEAL.close(3, bytes(100))
    changed = closed[:50] + bytes([closed[50] ^ 1]) + closed[51:]
    for seal, index, content in ((other, 3, closed), (SEAL, 4, closed), (SEAL, 3, changed)):
        with pytest.raises(WrongSeal):
            seal.open(index, content)


def test_the_mark_tells_keys_apart() -> None:
    """It is the same for a key in each chain, another for another key, and has nothing of the key."""
    assert SEAL.mark == OTHERS[1].mark != OTHERS[0].mark
    assert KEY.hex() not in SEAL.mark

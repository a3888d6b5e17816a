"""Memory of emulated guests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kumulus_agent.compute.emulated_memory import QEMU_URI, emulated_memory

_WORD_KIB = 64 * 4


@given(st.integers(min_value=1, max_value=1 << 40))
def test_memory_ends_within_a_word_of_the_bitmap(memory_kib: int) -> None:
    """Whatever a guest asks for, it gets that and a little more, in whole pages, and never whole words of 64 pages."""
    found = [argument.get("value") or "" for argument in emulated_memory(memory_kib).iter(f"{{{QEMU_URI}}}arg")]
    assert found[::2] == ["-object", "-machine", "-m"]
    backend, size = found[1].split(",size=")[0], found[5].removeprefix("size=")
    assert found[1] == f"{backend},size={size}"
    assert found[3] == f"memory-backend={backend.rpartition('id=')[2]}"
    given_kib = int(size.removesuffix("k"))
    assert memory_kib <= given_kib <= memory_kib + 1024 + 8
    assert given_kib % 4 == 0
    assert given_kib % _WORD_KIB != 0

"""The factory of XML elements without namespace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from lxml import etree
from lxml.builder import ElementMaker  # type: ignore[import-not-found]


class Maker(Protocol):
    """lxml publishes no types for its element factory."""

    def __getattr__(self, tag: str) -> Callable[..., etree._Element]: ...


E: Maker = ElementMaker()

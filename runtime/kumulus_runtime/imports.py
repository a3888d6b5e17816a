"""Import kopf, aiohttp and the Kubernetes client without the parts that nobody here uses.

Three habits of the libraries cost about 20 MiB in each process:

* ``kubernetes/__init__.py`` imports the synchronous client, its informers, its websocket stack and more, even for
  those who only want ``kubernetes.aio``.
* kopf imports the synchronous client if it can be found, only to accept its model objects.
* aiohttp reads the system's certificates twice when it is imported, for connections that are given no TLS context:
  ours are given one, but for downloads of images.

So ``kubernetes`` and ``kubernetes.aio`` are registered as packages that load their submodules when these are asked
for, and kopf is imported while ``kubernetes.client`` cannot be found. Both stay importable afterwards. aiohttp is
imported while TLS contexts put off reading (`kumulus_runtime.trust`).

This must come before the first ``import kopf`` or ``import kubernetes`` of a process. ``import kumulus_runtime`` does
it, so the ``__init__`` of each process package starts with that. Where somebody was faster, nothing is changed and
only memory is lost.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from kumulus_runtime.trust import read_when_used

_LAZY_PACKAGES = ("kubernetes", "kubernetes.aio")
_HIDDEN_FROM_KOPF = "kubernetes.client"


def register_lazily(name: str) -> None:
    """Put the package ``name`` in ``sys.modules`` without running its ``__init__``.

    Its submodules are found as ever; an attribute that is missing is imported as a submodule.
    """
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}: install the distribution 'kubernetes'", name=name)
    package = importlib.util.module_from_spec(spec)

    def load_submodule(attribute: str) -> ModuleType:
        if attribute.startswith("__"):
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        try:
            return importlib.import_module(f"{name}.{attribute}")
        except ModuleNotFoundError as error:
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}") from error

    vars(package)["__getattr__"] = load_submodule
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)


@contextmanager
def without_mocks() -> Iterator[None]:
    """What is imported meanwhile gets empty objects for mocks, unless `unittest` is there already."""
    if "unittest" in sys.modules:
        yield
        return
    package, mock = ModuleType("unittest"), ModuleType("unittest.mock")
    vars(package)["mock"], vars(mock)["Mock"] = mock, object
    stand_ins = {"unittest": package, "unittest.mock": mock}
    sys.modules |= stand_ins
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]


def _import_kopf() -> None:
    """Import kopf while it cannot find the synchronous client."""
    if "kopf" in sys.modules:
        return
    hidden = _HIDDEN_FROM_KOPF not in sys.modules
    if hidden:
        # None in sys.modules makes the import statement raise ImportError: documented by Python, expected by kopf.
        sys.modules[_HIDDEN_FROM_KOPF] = None  # type: ignore[assignment]
    try:
        importlib.import_module("kopf")
    finally:
        if hidden:
            del sys.modules[_HIDDEN_FROM_KOPF]


for _package in _LAZY_PACKAGES:
    register_lazily(_package)
with read_when_used():
    importlib.import_module("aiohttp")
_import_kopf()

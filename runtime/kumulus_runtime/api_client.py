"""The API server, asked with plain dicts.

Authentication, TLS and connections are those of ``kubernetes.aio``; its ~700 model classes are not used.
Errors are translated once, here; their tree is in ``kumulus_runtime.errors``. Nothing is retried but an expired token
(once): the work queue repeats a whole reconcile.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Self

from kubernetes.aio.client.api_client import ApiClient

from kumulus_runtime import watch as _watch
from kumulus_runtime.connection import load_configuration
from kumulus_runtime.connector import RestClient
from kumulus_runtime.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    Expired,
    Forbidden,
    Invalid,
    NotFound,
    Retryable,
)
from kumulus_runtime.resources import (
    CERTIFICATESIGNINGREQUEST,
    CONFIGMAP,
    CUSTOMRESOURCEDEFINITION,
    EVENT,
    LEASE,
    NAMESPACE,
    NODE,
    POD,
    RESOURCEQUOTA,
    ROLE,
    ROLEBINDING,
    SECRET,
    SERVICE,
    SERVICEACCOUNT,
    SUBJECTACCESSREVIEW,
    TOKENREVIEW,
    Kind,
    Resource,
    ResourceLike,
    object_path,
    resource_of,
    with_type,
)
from kumulus_runtime.transport import Transport, as_object

__all__ = [
    "CERTIFICATESIGNINGREQUEST",
    "CONFIGMAP",
    "CUSTOMRESOURCEDEFINITION",
    "EVENT",
    "LEASE",
    "NAMESPACE",
    "NODE",
    "POD",
    "RESOURCEQUOTA",
    "ROLE",
    "ROLEBINDING",
    "SECRET",
    "SERVICE",
    "SERVICEACCOUNT",
    "SUBJECTACCESSREVIEW",
    "TOKENREVIEW",
    "AlreadyExists",
    "ApiError",
    "Conflict",
    "Expired",
    "Forbidden",
    "Invalid",
    "Kind",
    "KubeClient",
    "NotFound",
    "Resource",
    "ResourceLike",
    "Retryable",
]

Object = dict[str, Any]
# Named here, because inside the class `list` is a method.
Objects = list[Object]
KindRef = type[Kind] | ResourceLike

_PAGE = 500
_FINALIZER_ATTEMPTS = 5
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"
_JSON = "application/json"
_METADATA = _JSON + ";as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_LIST = _JSON + ";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class KubeClient(Transport):
    """One authenticated connection pool to one API server.

    Made by `connect`; bodies in and out are plain dicts with ``apiVersion`` and ``kind`` filled in.
    Every method raises `kumulus_runtime.errors.ApiError` subclasses beside those it names.
    """

    @classmethod
    async def connect(cls, user_agent: str) -> Self:
        """Read KUBECONFIG, else the pod's service account; no request is sent yet.

        Args:
            user_agent: shown in the API server's audit log, e.g. ``kumulus-agent/0.1.0``.

        Raises:
            NoCluster: no usable configuration was found.
        """
        configuration = await load_configuration()
        client = ApiClient(configuration)
        client.rest_client = RestClient(configuration)
        client.user_agent = user_agent
        return cls(client)

    async def get(self, kind: KindRef, name: str, namespace: str | None = None) -> Object | None:
        """Read one object, live; None if it, its kind or its namespace does not exist."""
        try:
            return as_object(await self.request("GET", object_path(resource_of(kind), namespace, name)))
        except NotFound:
            return None

    async def list(
        self, kind: KindRef, namespace: str | None = None, label_selector: str = "", field_selector: str = ""
    ) -> tuple[Objects, str]:
        """Read all objects of a kind, in pages, as of one moment.

        Returns:
            The objects and the resourceVersion to watch from.
        """
        selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
        return await self._list(resource_of(kind), namespace, selectors, _JSON)

    async def _list(
        self, resource: ResourceLike, namespace: str | None, selectors: Mapping[str, str], accept: str
    ) -> tuple[Objects, str]:
        try:
            return await self._list_pages(resource, namespace, dict(selectors) | {"limit": str(_PAGE)}, accept)
        except Expired:
            # The history between two pages was compacted: only an undivided list is consistent then.
            return await self._list_pages(resource, namespace, dict(selectors), accept)

    async def _list_pages(
        self, resource: ResourceLike, namespace: str | None, query: dict[str, str], accept: str
    ) -> tuple[Objects, str]:
        items: Objects = []
        while True:
            page = as_object(await self.request("GET", object_path(resource, namespace), query=query, accept=accept))
            items += [with_type(resource, item) for item in page.get("items") or ()]
            metadata = page["metadata"]
            token = metadata.get("continue")
            if not token:
                return items, str(metadata["resourceVersion"])
            query["continue"] = token

    async def create(self, kind: KindRef, body: Object) -> Object:
        """Create the object.

        Raises:
            AlreadyExists: its name is taken.
        """
        resource = resource_of(kind)
        path = object_path(resource, _namespace(body))
        return as_object(await self.request("POST", path, with_type(resource, body)))

    async def delete(self, kind: KindRef, name: str, namespace: str | None = None, uid: str | None = None) -> bool:
        """Ask for deletion, dependents in the background.

        Args:
            kind: model class or resource.
            name: object name.
            namespace: its namespace.
            uid: delete only this incarnation.

        Returns:
            False if the object, or this incarnation of it, is not there.
        """
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            await self.request("DELETE", object_path(resource_of(kind), namespace, name), options)
        except NotFound:
            return False
        except Conflict:
            if uid is None:
                raise
            return False
        return True

    async def apply(self, kind: KindRef, body: Object, *, manager: str, force: bool = True) -> Object:
        """Server-side apply of everything but the status; creates the object if it is absent.

        Args:
            kind: model class or resource.
            body: exactly the fields that the manager owns; fields it no longer names are removed.
            manager: field manager.
            force: take fields over from other managers.

        Raises:
            Conflict: without ``force``, when another manager owns one of the fields.
        """
        return await self._apply(resource_of(kind), body, {"fieldManager": manager, "force": _flag(force)})

    async def apply_status(self, kind: KindRef, body: Object, *, manager: str) -> Object:
        """Server-side apply of the status; the object must exist.

        Args:
            kind: model class or resource.
            body: metadata with name and namespace (and ``uid`` to refuse another incarnation), and status.
            manager: field manager; fields of status it no longer names are removed.

        Raises:
            NotFound: the object is gone.
        """
        return await self._apply(resource_of(kind), body, {"fieldManager": manager, "force": "true"}, "status")

    async def _apply(
        self, resource: ResourceLike, body: Object, query: Mapping[str, str], subresource: str = ""
    ) -> Object:
        path = object_path(resource, _namespace(body), body["metadata"]["name"], subresource)
        return as_object(await self.request("PATCH", path, with_type(resource, body), _APPLY, query))

    async def patch_merge(
        self, kind: KindRef, name: str, patch: Object, namespace: str | None = None, *, subresource: str = ""
    ) -> Object:
        """JSON merge patch: None removes a field, lists are replaced.

        Raises:
            NotFound: the object is gone.
            Conflict: the patch names another resourceVersion than the stored one.
        """
        path = object_path(resource_of(kind), namespace, name, subresource)
        return as_object(await self.request("PATCH", path, patch, _MERGE))

    async def remove_finalizer(
        self, kind: KindRef, name: str, finalizer: str, namespace: str | None = None, *, uid: str | None = None
    ) -> bool:
        """Remove one finalizer and leave those of others alone.

        Args:
            kind: model class or resource.
            name: object name.
            finalizer: the finalizer.
            namespace: its namespace.
            uid: only of this incarnation.

        Returns:
            Whether this call removed it; False if there was nothing to remove.

        Raises:
            Conflict: others changed the finalizers in every attempt.
        """
        path = object_path(resource_of(kind), namespace, name)
        for _ in range(_FINALIZER_ATTEMPTS):
            found = await self.get(kind, name, namespace)
            if found is None or (uid is not None and found["metadata"]["uid"] != uid):
                return False
            finalizers = found["metadata"].get("finalizers") or []
            if finalizer not in finalizers:
                return False
            try:
                await self.request("PATCH", path, _without(found["metadata"], finalizer), _JSON_PATCH)
            except NotFound:
                return False
            except (Conflict, Invalid) as error:
                # 422 is also the answer to a failed test operation: somebody changed the list in between.
                lost = error
                continue
            return True
        raise Conflict(409, "Conflict", f"finalizer {finalizer} of {path} could not be removed: {lost.message}")

    async def update(self, kind: KindRef, body: Object, *, subresource: str = "") -> Object:
        """Replace the object if nobody changed it since it was read.

        Raises:
            Conflict: it was changed since.
            NotFound: it is gone.
            ValueError: the body has no resourceVersion, so nothing would guard the write.
        """
        resource = resource_of(kind)
        metadata = body["metadata"]
        if not metadata.get("resourceVersion"):
            raise ValueError(
                f"update of {resource.kind} {metadata['name']!r} needs metadata.resourceVersion: read first"
            )
        path = object_path(resource, _namespace(body), metadata["name"], subresource)
        return as_object(await self.request("PUT", path, with_type(resource, body)))

    async def watch(
        self,
        kind: KindRef,
        *,
        namespace: str | None = None,
        field_selector: str = "",
        label_selector: str = "",
        listed_again: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[tuple[str, Object]]:
        """List, then watch, for ever.

        Args:
            kind: model class or resource.
            namespace: of the objects; None for all.
            field_selector: which objects.
            label_selector: which objects.
            listed_again: called after each list but the first; there was a time of which no event will tell.

        Yields:
            ``(type, object)`` with type ADDED, MODIFIED or DELETED, and once ``("SYNCED", {})`` after the first list.
            After an interruption objects may come again as MODIFIED, and those that vanished meanwhile come as DELETED
            with apiVersion, kind, name, namespace and uid only. DELETED is a reason to look, not a proof.
        """
        selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
        async for event in _watch.list_and_watch(self, resource_of(kind), namespace, selectors, listed_again):
            yield event

    async def watch_metadata(self, kind: KindRef, *, namespace: str | None = None) -> AsyncIterator[tuple[str, Object]]:
        """As `watch`, but of each object only its metadata is sent: for what may be seen to change, but not be read."""
        selectors = {"labelSelector": "", "fieldSelector": ""}
        async for event in _watch.list_and_watch(_Metadata(self), resource_of(kind), namespace, selectors):
            yield event


class _Metadata:
    """Lists and watches metadata only; see `kumulus_runtime.watch.Source`."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def list(
        self, kind: KindRef, namespace: str | None = None, label_selector: str = "", field_selector: str = ""
    ) -> tuple[Objects, str]:
        selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
        return await self._client._list(resource_of(kind), namespace, selectors, _METADATA_LIST)  # noqa: SLF001

    def stream(
        self, path: str, query: Mapping[str, str] | None = None, *, idle_timeout: float | None = None
    ) -> AsyncIterator[bytes]:
        return self._client.stream(path, query, idle_timeout=idle_timeout, accept=_METADATA)


def _namespace(body: Object) -> str | None:
    namespace: str | None = body["metadata"].get("namespace")
    return namespace


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _without(metadata: Object, finalizer: str) -> list[Object]:
    """A JSON patch that removes the finalizer of this very object, if it is where it was seen."""
    position = f"/metadata/finalizers/{metadata['finalizers'].index(finalizer)}"
    return [
        {"op": "test", "path": "/metadata/uid", "value": metadata["uid"]},
        {"op": "test", "path": position, "value": finalizer},
        {"op": "remove", "path": position},
    ]

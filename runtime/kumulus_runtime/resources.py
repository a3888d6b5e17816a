"""How a kind is addressed at the API server."""

from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote


class ResourceLike(Protocol):
    """The five facts that make a URL; a model class offers them through ``resource()``."""

    @property
    def group(self) -> str:
        """API group, empty for the core."""

    @property
    def version(self) -> str:
        """API version, e.g. ``v1alpha1``."""

    @property
    def plural(self) -> str:
        """Lower-case plural, e.g. ``servers``."""

    @property
    def kind(self) -> str:
        """Kind, e.g. ``Server``."""

    @property
    def namespaced(self) -> bool:
        """Whether objects live in a namespace."""


class Kind(Protocol):
    """A model class that knows its resource."""

    @classmethod
    def resource(cls) -> ResourceLike:
        """The resource that this class describes."""


@dataclass(frozen=True)
class Resource:
    """A kind that has no model class here."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True


CONFIGMAP = Resource("", "v1", "configmaps", "ConfigMap")
NAMESPACE = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
NODE = Resource("", "v1", "nodes", "Node", namespaced=False)
POD = Resource("", "v1", "pods", "Pod")
RESOURCEQUOTA = Resource("", "v1", "resourcequotas", "ResourceQuota")
SECRET = Resource("", "v1", "secrets", "Secret")
SERVICE = Resource("", "v1", "services", "Service")
SERVICEACCOUNT = Resource("", "v1", "serviceaccounts", "ServiceAccount")
CERTIFICATESIGNINGREQUEST = Resource(
    "certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest", namespaced=False
)
CUSTOMRESOURCEDEFINITION = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
EVENT = Resource("events.k8s.io", "v1", "events", "Event")
LEASE = Resource("coordination.k8s.io", "v1", "leases", "Lease")
ROLE = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role")
ROLEBINDING = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
SUBJECTACCESSREVIEW = Resource(
    "authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False
)
TOKENREVIEW = Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False)


def resource_of(kind: type[Kind] | ResourceLike) -> ResourceLike:
    """The resource of a model class, or the resource itself."""
    if isinstance(kind, type):
        return kind.resource()
    return kind


def api_version(resource: ResourceLike) -> str:
    """The ``apiVersion`` of an object, e.g. ``v1`` or ``kumulus.dev/v1alpha1``."""
    return f"{resource.group}/{resource.version}" if resource.group else resource.version


def object_path(resource: ResourceLike, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
    """The URL path of an object, or of a collection if ``name`` is empty.

    Args:
        resource: the kind.
        namespace: its namespace; None in a collection means all namespaces. Ignored for cluster-scoped kinds.
        name: object name.
        subresource: e.g. ``status``.

    Raises:
        ValueError: one object of a namespaced kind is asked for without a namespace.
    """
    parts = ["apis", resource.group, resource.version] if resource.group else ["api", resource.version]
    if resource.namespaced and namespace:
        parts += ["namespaces", namespace]
    elif resource.namespaced and name:
        raise ValueError(f"{resource.kind} {name!r} needs a namespace: it is a namespaced kind")
    parts += [part for part in (resource.plural, name, subresource) if part]
    return "/" + "/".join(quote(part, safe="") for part in parts)


def with_type(resource: ResourceLike, body: dict[str, Any]) -> dict[str, Any]:
    """The body with ``apiVersion`` and ``kind`` filled in where they are missing; the argument is not changed."""
    return {"apiVersion": api_version(resource), "kind": resource.kind} | body

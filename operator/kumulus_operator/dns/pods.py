"""Have the name servers' pods get changed zone files at once.

A kubelet renews mounted files once a minute, and whenever an annotation of their pod changes.
"""

from __future__ import annotations

import structlog

from kumulus_operator.cloud import Cloud
from kumulus_operator.views import Key
from kumulus_runtime.errors import NotFound
from kumulus_runtime.resources import POD

ANNOTATION = "kumulus.dev/zones"
"""On a pod: the state of the zone files that it was last told of."""
_SELECTOR = "app.kubernetes.io/name=kumulus,app.kubernetes.io/component=dns"
_LOG = structlog.stdlib.get_logger(__name__)


class NameServerController:
    """Tells all pods of the state of the zone files. Its only key is empty.

    Args:
        cloud: what the operator works with.
    """

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def reconcile(self, _key: Key) -> None:
        """Bring the annotations up to date."""
        client, namespace = self._cloud.client, self._cloud.settings.system_namespace
        state = self._cloud.zone_files.state
        for pod in (await client.list(POD, namespace, label_selector=_SELECTOR))[0]:
            metadata = pod["metadata"]
            if (metadata.get("annotations") or {}).get(ANNOTATION) == state or "deletionTimestamp" in metadata:
                continue
            try:
                await client.patch_merge(
                    POD, metadata["name"], {"metadata": {"annotations": {ANNOTATION: state}}}, namespace
                )
            except NotFound:
                continue
            _LOG.info("name server told", pod=metadata["name"])

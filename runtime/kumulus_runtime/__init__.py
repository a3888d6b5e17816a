"""What the operator and the node agent share: queue, API client, lease, logging, metrics.

`kumulus_runtime.imports` comes first: it keeps what nobody uses of kopf and the Kubernetes client out of memory.
"""

import kumulus_runtime.imports  # noqa: F401 - for its effect

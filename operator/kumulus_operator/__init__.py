"""The operator: decides. Tenancy, quota, addresses, placement."""

import kumulus_runtime.imports  # noqa: F401 - must precede kopf and kubernetes

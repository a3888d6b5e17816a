"""What the operator and the node agent share: queue, API client, lease, logging, metrics."""

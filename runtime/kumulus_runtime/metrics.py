"""Metrics that every process has. Names and buckets as in controller-runtime, so its dashboards fit."""

from prometheus_client import Counter, Gauge, Histogram

_LABELS = ("name",)
_BUCKETS = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1000.0)

QUEUE_ADDS = Counter("workqueue_adds_total", "Keys added to the work queue.", _LABELS)
QUEUE_DEPTH = Gauge("workqueue_depth", "Keys waiting in the work queue.", _LABELS)
QUEUE_LATENCY = Histogram(
    "workqueue_queue_duration_seconds", "How long a key waited before it was handled.", _LABELS, buckets=_BUCKETS
)
QUEUE_WORK = Histogram("workqueue_work_duration_seconds", "How long handling a key took.", _LABELS, buckets=_BUCKETS)
QUEUE_RETRIES = Counter("workqueue_retries_total", "Keys added again after a failure.", _LABELS)
QUEUE_LONGEST = Gauge(
    "workqueue_longest_running_processor_seconds", "For how long the slowest key is being handled.", _LABELS
)
API_REQUESTS = Counter(
    "rest_client_requests_total", "Requests to the API server by HTTP method and status code.", ("method", "code")
)
LEADER = Gauge("leader_election_master_status", "1 while this process holds the Lease.", _LABELS)
HEARTBEAT_AGE = Gauge("kumulus_heartbeat_age_seconds", "Seconds since the Lease was last renewed.", _LABELS)

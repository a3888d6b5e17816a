"""Metrics of the agent."""

from prometheus_client import Counter, Gauge, Histogram

START_SECONDS = Histogram(
    "kumulus_server_start_step_seconds",
    "Duration of each step of starting a server.",
    ("step",),
    buckets=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0),
)
STARTS = Counter("kumulus_server_starts_total", "Servers started, by result.", ("result",))
REMOVALS = Counter("kumulus_server_removals_total", "Servers removed from this host.")
INSTANCES = Gauge("kumulus_host_instances", "Instances on this host by power state.", ("power_state",))
UNCLAIMED = Gauge("kumulus_host_unclaimed_instances", "Instances on this host that no Server claims.")
STATUS_WRITES = Counter("kumulus_status_writes_total", "Status writes by kind.", ("kind",))
NETWORKS = Gauge("kumulus_host_networks", "Networks that this host carries.")
HYPERVISOR_UP = Gauge("kumulus_hypervisor_up", "1 while libvirtd answers.")
SERVICE_EXITS = Counter(
    "kumulus_host_service_exits_total", "Host services that ended without being asked to.", ("service",)
)
METADATA_REQUESTS = Counter("kumulus_metadata_requests_total", "Answers to guests' questions for metadata.", ("code",))
METADATA_REFUSED = Counter(
    "kumulus_metadata_connections_refused_total", "Connections for metadata that were not answered.", ("reason",)
)

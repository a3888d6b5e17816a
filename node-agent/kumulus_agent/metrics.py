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
IMAGE_BYTES = Gauge("kumulus_image_cache_bytes", "Bytes of cached images, by whether they are kept.", ("kept",))
IMAGE_HITS = Counter("kumulus_image_cache_hits_total", "Images that were here when they were needed.")
IMAGE_MISSES = Counter("kumulus_image_cache_misses_total", "Images that were not here when they were needed.")
IMAGE_EVICTIONS = Counter("kumulus_image_cache_evictions_total", "Images removed to make room.")
IMAGES_TO_FETCH = Gauge("kumulus_images_to_fetch", "Images that this host is to keep and has not got yet.")
IMAGE_LAG = Gauge("kumulus_image_replication_lag_seconds", "Since when the oldest of these is to be kept here.")
METADATA_REQUESTS = Counter("kumulus_metadata_requests_total", "Answers to guests' questions for metadata.", ("code",))
METADATA_REFUSED = Counter(
    "kumulus_metadata_connections_refused_total", "Connections for metadata that were not answered.", ("reason",)
)
STORAGE = Gauge(
    "kumulus_host_storage_bytes",
    "Bytes of the folders with disks, volumes and images: capacity, free (of the file system), allocated, provisioned.",
    ("folder", "what"),
)
SHARES = Gauge(
    "kumulus_host_share_bytes",
    "Bytes of the shares of volume classes that are mounted here: capacity and free.",
    ("volume_class", "what"),
)

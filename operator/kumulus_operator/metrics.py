"""Metrics of the operator."""

from prometheus_client import Counter, Gauge

PLACEMENTS = Counter("kumulus_placements_total", "Attempts to place a server, by outcome.", ("outcome",))
ABANDONED_CLAIMS = Gauge("kumulus_abandoned_claims", "Claims whose claimant is gone and that are not yet released.")
RELEASED_CLAIMS = Counter("kumulus_released_claims_total", "Claims released after the quarantine.")
WAITING_SERVERS = Gauge("kumulus_waiting_servers", "Servers that wait to be placed.")
WATCHES = Gauge("kumulus_watches", "Kinds that the leader watches; 0 in a standby.")
ENDPOINT_WRITES = Counter("kumulus_endpoint_writes_total", "Writes of NetworkEndpoints slices.")
ZONE_WRITES = Counter("kumulus_zone_writes_total", "Writes of ConfigMaps of zone files.")
BOOT_DATA_REQUESTS = Counter("kumulus_boot_data_requests_total", "Requests for boot data by HTTP status.", ("code",))
CLASS_BYTES = Gauge(
    "kumulus_volume_class_bytes",
    "Bytes of volume classes: provisioned; of shared ones capacity and free, too.",
    ("volume_class", "what"),
)

"""A real multi-host cloud on one machine: Kubernetes, hosts made of namespaces, libvirt and the Kumulus chart.

Nothing here is needed by a Kumulus installation; it is what tests, benchmarks and newcomers run on.
"""

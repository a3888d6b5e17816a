# Two images, `operator` (which is the console proxy too) and `agent`. Dependencies come before the source, so that a changed source is a few small layers.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS python
# Tracebacks name lines, not columns: those are a tenth of what compiled code takes in memory.
ENV PYTHONNODEBUGRANGES=1
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/* \
    && python3 -m compileall -q -o 2 /usr/lib/python3.11
# All that runs here is compiled beforehand and without docstrings, and what is freed goes back to the host: each is
# several MiB of every process.
ENV PYTHONOPTIMIZE=2 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    MALLOC_ARENA_MAX=2 MALLOC_TRIM_THRESHOLD_=131072

FROM python AS builder
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends gcc libc6-dev libvirt-dev pkg-config python3-dev python3-venv
COPY docker/install-locked /usr/local/bin/
COPY requirements/operator.lock /requirements/
RUN install-locked operator
COPY requirements/agent.lock /requirements/
RUN install-locked agent

# The console proxy's pages: files alone, without the server that the package would bring along.
FROM builder AS novnc
RUN cd /tmp && apt-get download -qq novnc && dpkg-deb --extract novnc_*.deb /novnc

FROM python AS operator-base
COPY --from=builder /opt/operator /opt/operator
COPY --from=novnc /novnc/usr/share/novnc /usr/share/novnc
COPY docker/kumulus-operator docker/kumulus-console /usr/local/bin/
ENV PATH=/opt/operator/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/opt/kumulus
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/kumulus-operator"]

FROM operator-base AS operator
COPY api/kumulus_api /opt/kumulus/kumulus_api
COPY runtime/kumulus_runtime /opt/kumulus/kumulus_runtime
COPY operator/kumulus_operator /opt/kumulus/kumulus_operator
COPY console-proxy/kumulus_console /opt/kumulus/kumulus_console
USER 0:0
RUN ["python3", "-m", "compileall", "-q", "-o", "2", "--invalidation-mode", "unchecked-hash", "/opt/kumulus"]
USER 65532:65532

FROM python AS agent-base
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends conntrack iproute2 libvirt0 nftables qemu-utils util-linux \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/*
COPY --from=builder /opt/agent /opt/agent
COPY docker/kumulus-agent /usr/local/bin/kumulus-agent
ENV PATH=/opt/agent/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/opt/kumulus
ENTRYPOINT ["/usr/local/bin/kumulus-agent"]

FROM agent-base AS agent
COPY api/kumulus_api /opt/kumulus/kumulus_api
COPY runtime/kumulus_runtime /opt/kumulus/kumulus_runtime
COPY node-agent/kumulus_agent /opt/kumulus/kumulus_agent
RUN ["python3", "-m", "compileall", "-q", "-o", "2", "--invalidation-mode", "unchecked-hash", "/opt/kumulus"]

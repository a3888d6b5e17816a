# Two images, `operator` and `agent`. Dependencies come before the source, so that a changed source is one small layer.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS python
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/*

FROM python AS builder
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends gcc libc6-dev libvirt-dev pkg-config python3-dev python3-venv
RUN python3 -m venv /opt/operator && python3 -m venv /opt/agent
COPY requirements/operator.lock requirements/agent.lock /requirements/
RUN /opt/operator/bin/pip install --quiet --no-cache-dir --no-compile --require-hashes -r /requirements/operator.lock \
    && /opt/operator/bin/pip uninstall --quiet --yes pip setuptools
RUN /opt/agent/bin/pip install --quiet --no-cache-dir --no-compile --require-hashes -r /requirements/agent.lock \
    && /opt/agent/bin/pip uninstall --quiet --yes pip setuptools

FROM python AS operator-base
COPY --from=builder /opt/operator /opt/operator
COPY docker/kumulus-operator /usr/local/bin/kumulus-operator
ENV PATH=/opt/operator/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/opt/kumulus PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/kumulus-operator"]

FROM operator-base AS operator
COPY api/kumulus_api /opt/kumulus/kumulus_api
COPY runtime/kumulus_runtime /opt/kumulus/kumulus_runtime
COPY operator/kumulus_operator /opt/kumulus/kumulus_operator

FROM python AS agent-base
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends conntrack iproute2 libvirt0 nftables qemu-utils util-linux \
    && rm -rf /var/lib/apt/lists/*
COPY --from=builder /opt/agent /opt/agent
COPY docker/kumulus-agent /usr/local/bin/kumulus-agent
ENV PATH=/opt/agent/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/opt/kumulus PYTHONUNBUFFERED=1
ENTRYPOINT ["/usr/local/bin/kumulus-agent"]

FROM agent-base AS agent
COPY api/kumulus_api /opt/kumulus/kumulus_api
COPY runtime/kumulus_runtime /opt/kumulus/kumulus_runtime
COPY node-agent/kumulus_agent /opt/kumulus/kumulus_agent

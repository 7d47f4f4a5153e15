# The image of the pods that generate where there is no GPU: to try a cluster on a laptop. What `make setup` installs on CPU.
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHON=python3
WORKDIR /opt/fleet
COPY requirements requirements
COPY pyproject.toml README.md LICENSE ./
COPY fleet_pipeline fleet_pipeline
RUN requirements/install.sh && .venv/bin/python -m pip list --format json > packages.json

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Fleet Pipeline, engine on CPU" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# vLLM's kernels for CPUs are linked against libnuma, and workspaces of tools are kept with git; slim images lack both. Debian keeps one version at a time, so none is named.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends git libnuma1 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/fleet /opt/fleet
ENV PATH=/opt/fleet/.venv/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp
USER 10001:10001
WORKDIR /tmp
CMD ["fleet", "doctor"]

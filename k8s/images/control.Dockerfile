# The image of everything but the engine: webserver, daemon, code location, services, and the runs' own pods. No vLLM, no torch.
# From the repository's root: make images
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python3 -m venv /opt/fleet
COPY requirements/control.lock /src/requirements/
RUN /opt/fleet/bin/python -m pip install --no-deps -r /src/requirements/control.lock
COPY pyproject.toml README.md LICENSE /src/
COPY fleet_pipeline /src/fleet_pipeline
RUN /opt/fleet/bin/python -m pip install --no-deps --no-build-isolation /src \
    && /opt/fleet/bin/python -m compileall -q /opt/fleet/lib \
    && /opt/fleet/bin/python -m pip list --format json > /opt/fleet/packages.json

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Fleet Pipeline, control" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/fleet /opt/fleet
ENV PATH=/opt/fleet/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp
USER 10001:10001
WORKDIR /tmp
# As it is loaded in the cluster: a definition that cannot be imported here fails the build.
RUN FLEET_STORAGE=/tmp/storage python3 -c "import fleet_pipeline.definitions"
CMD ["fleet", "--help"]

# The image of the pods that hold a GPU: vLLM's own, which brings CUDA, torch and vLLM, with this package added.
# From the repository's root: make images
ARG BASE=vllm/vllm-openai:v0.32.0

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Fleet Pipeline, engine" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 HOME=/tmp
COPY requirements/control.lock pyproject.toml README.md LICENSE /src/
COPY fleet_pipeline /src/fleet_pipeline
# What vLLM's image has stays as it is: of the lock, only what is not there is installed.
RUN python3 -c "import importlib.metadata as m, re; have = {re.sub('[-_.]+', '-', d.name).lower() for d in m.distributions()}; print('\n'.join(line for line in map(str.strip, open('/src/control.lock')) if line and line.partition('==')[0].lower() not in have))" > /tmp/missing.lock \
    && python3 -m pip install --no-deps -r /tmp/missing.lock \
    && python3 -m pip install --no-deps /src \
    && rm -rf /src /tmp/missing.lock \
    && python3 -m pip list --format json > /opt/packages.json
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT []
CMD ["fleet", "doctor"]

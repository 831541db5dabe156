# The image of a worker, and of every other command: `docker build -t tokenspool:0.1.0 .`
#
# It needs no root, no writable root file system and no capability. It writes to /out (a volume) and /tmp.

FROM python:3.11-slim-bookworm AS builder

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
# What changes rarely comes first: a change of the code installs no dependency anew.
COPY requirements.lock requirements-dev.lock ./
# The tool that makes the wheel comes from the lock too, hashes included; nothing else of the second file is needed.
RUN awk '/^[a-z]/ {wanted = /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/} wanted' requirements-dev.lock > build.lock \
    && python -m venv /build-tools \
    && /build-tools/bin/pip install --quiet --require-hashes --only-binary :all: -r build.lock \
    && python -m venv --without-pip /opt/tokenspool \
    && pip --python /opt/tokenspool install --quiet --require-hashes --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY cli cli
COPY migrations migrations
COPY pipeline pipeline
COPY simulator simulator
COPY tokenspool tokenspool
COPY worker worker
RUN /build-tools/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels . \
    && pip --python /opt/tokenspool install --quiet --no-deps --no-index /wheels/*.whl \
    && /opt/tokenspool/bin/python -P -m compileall -q /opt/tokenspool

FROM python:3.11-slim-bookworm

LABEL org.opencontainers.image.title="tokenspool" \
      org.opencontainers.image.description="Spools long language-model streams to storage" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# A fixed number: volumes and Kubernetes know the user by it, not by name.
RUN groupadd --gid 10001 tokenspool \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin tokenspool \
    && install -d -o 10001 -g 10001 /out
COPY --from=builder /opt/tokenspool /opt/tokenspool
ENV PATH=/opt/tokenspool/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /out
VOLUME ["/out"]
USER 10001:10001
STOPSIGNAL SIGTERM
# Whether the database knows a living worker of this host; see docs/operate.md.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 \
    CMD ["python", "-P", "-m", "worker.healthy"]
# -P: a folder called `worker` in the volume is never taken for ours.
ENTRYPOINT ["python", "-P", "-m", "tokenspool"]
CMD ["worker"]

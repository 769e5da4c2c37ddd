# syntax=docker/dockerfile:1
ARG PYTHON_TAG=3.13-slim-bookworm

FROM python:${PYTHON_TAG} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv /opt/openride

# The dependencies come first and by themselves: a change of the code leaves their layer cached. The embedded
# stores stay out: a container is given the addresses of real ones. There is no compiler here, hence only wheels.
COPY pyproject.toml requirements.lock ./
RUN python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
        > runtime.txt \
    && /opt/openride/bin/pip install --only-binary :all: --constraint requirements.lock --requirement runtime.txt \
    && pip install --only-binary :all: --constraint requirements.lock hatchling

COPY README.md ./
COPY openride_analytics openride_analytics
COPY migrations migrations
RUN python -m hatchling build --target wheel \
    && /opt/openride/bin/pip install --no-deps dist/*.whl \
    && /opt/openride/bin/pip check


FROM python:${PYTHON_TAG}
LABEL org.opencontainers.image.title="OpenRide Analytics" \
      org.opencontainers.image.description="Kafka events into ClickHouse, metrics over REST"

# The one place written to, besides /tmp: both may be mounts under a read-only root.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/openride --shell /usr/sbin/nologin openride \
    && install --directory --owner=10001 --group=10001 /var/lib/openride
VOLUME /var/lib/openride

COPY --from=build /opt/openride /opt/openride
COPY config.toml /etc/openride/config.toml

ENV PATH=/opt/openride/bin:$PATH \
    HOME=/var/lib/openride \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    OPENRIDE_SERVER__HOST=0.0.0.0 \
    OPENRIDE_STORAGE__DATA_DIR=/var/lib/openride
WORKDIR /var/lib/openride
# Numeric, so that Kubernetes can see it is not root.
USER 10001:10001
EXPOSE 8097
STOPSIGNAL SIGTERM

# The port opens at once, also while the servers behind it are away. The probe reads the configuration for the port.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-m", "openride_analytics.ops.probe", "/etc/openride/config.toml"]

ENTRYPOINT ["openride-analytics"]
CMD ["serve", "--config", "/etc/openride/config.toml"]

# The server as an image. It holds no etcd: give it a dedicated one (configs/etcd) with CACHESERVER_ETCD.

FROM python:3.13-slim-trixie AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY cacheserver ./cacheserver
# A virtual environment moves to the next stage as one directory, without pip's cache or a compiler.
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --disable-pip-version-check '.[cluster]'

FROM python:3.13-slim-trixie
# git and ssh read git sources; ca-certificates vouch for registries and git hosts.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates git openssh-client \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 65532 --user-group --home-dir /var/lib/cacheserver --create-home --shell /usr/sbin/nologin cacheserver
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    CACHESERVER_DATA_DIR=/var/lib/cacheserver
WORKDIR /var/lib/cacheserver
# By number: Kubernetes' runAsNonRoot cannot judge a name.
USER 65532:65532
# Alive is enough: while etcd is away the last state is still served, and a restart would lose it.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8001/livez', timeout=2)"]
ENTRYPOINT ["cacheserver"]
CMD ["serve"]
LABEL org.opencontainers.image.title="cacheserver" \
      org.opencontainers.image.description="A package cache for Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0"

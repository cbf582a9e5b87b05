# The server as an image. It holds no etcd: give it a dedicated one (configs/etcd) with CACHESERVER_ETCD.
#
# The base is a tag on purpose: each build takes Debian's fixes of that day (docs/security.md says when to build). For a
# build that can be repeated: --build-arg BASE=debian@sha256:...
ARG BASE=debian:trixie-slim

FROM ${BASE} AS build
RUN apt-get update && apt-get install --yes --no-install-recommends binutils python3-pip python3-venv
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY cacheserver ./cacheserver
# A virtual environment moves to the next stage as one directory, without pip or a compiler.
RUN python3 -m venv --without-pip /venv \
 && python3 -m pip --python /venv/bin/python install --no-cache-dir --disable-pip-version-check '.[cluster]'
# 136 MB become 47: models of the Kubernetes client, which are never imported (cacheserver/cluster/library.py), and
# symbols for a debugger. What is left has to load, or there is no image.
RUN cd /venv/lib/python3*/site-packages \
 && rm -r kubernetes_asyncio/client/api kubernetes_asyncio/client/models \
 && find . -name '*.so' -exec strip --strip-unneeded {} + \
 && /venv/bin/python -c 'import cacheserver.server, cacheserver.api; from cacheserver.cluster import library; library.load()'

FROM ${BASE}
# git and ssh read git sources and push to those that are written to; ca-certificates vouch for registries and git hosts.
# Of git stays what does that, which is in git itself and git-remote-https: not what serves, nor WebDAV (git-http-push),
# nor its documentation, nor Perl, in which nothing of that is written (dpkg knows that it went).
RUN apt-get update \
 && apt-get upgrade --yes \
 && apt-get install --yes --no-install-recommends ca-certificates git openssh-client python3 \
 && dpkg --purge --force-depends git-man liberror-perl libperl5.40 perl perl-modules-5.40 \
 && cd /usr/lib/git-core \
 && rm git-daemon git-http-backend git-http-fetch git-http-push git-imap-send git-sh-i18n--envsubst git-shell scalar \
 && rm /usr/bin/git-shell /usr/bin/scalar \
 && ln --symbolic --force ../../bin/git git \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /usr/share/doc /usr/share/man \
 && useradd --uid 65532 --user-group --home-dir /var/lib/cacheserver --create-home --shell /usr/sbin/nologin cacheserver
COPY --from=build /venv /venv
# What is inside, for whoever has to know: CycloneDX, made of what dpkg and Python's metadata say.
RUN --mount=type=bind,source=tools/sbom.py,target=/tmp/sbom.py \
    mkdir -p /usr/share/sbom && /venv/bin/python /tmp/sbom.py > /usr/share/sbom/cacheserver.cdx.json
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    CACHESERVER_DATA_DIR=/var/lib/cacheserver
WORKDIR /var/lib/cacheserver
# By number: Kubernetes' runAsNonRoot cannot judge a name.
USER 65532:65532
# No HEALTHCHECK: the image does not know where its server will listen. Kubernetes has probes of its own
# (configs/kubernetes/base/deployment.yaml); elsewhere, ask /livez.
ENTRYPOINT ["cacheserver"]
CMD ["serve"]
LABEL org.opencontainers.image.title="cacheserver" \
      org.opencontainers.image.description="A package cache for Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0"

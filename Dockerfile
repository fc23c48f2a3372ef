# One image, every role: the command says which (serve, receiver, reconciler, migrate).
FROM python:3.13-slim

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /src
COPY requirements/ requirements/
# With --build-arg REQUIREMENTS=otel the image can trace.
ARG REQUIREMENTS=runtime
RUN pip install --require-hashes -r requirements/build.txt -r "requirements/${REQUIREMENTS}.txt"

COPY pyproject.toml README.md LICENSE ./
COPY gateways/ gateways/
COPY runtime/ runtime/
COPY receiver/ receiver/
COPY reconciler/ reconciler/
COPY huizhi/ huizhi/
COPY sandbox/ sandbox/
COPY sql/ sql/
RUN pip install --no-deps --no-build-isolation --no-index .

RUN useradd --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin huizhi \
    && install --directory --mode=0700 --owner=huizhi --group=huizhi /data

# By number, so that Kubernetes can tell that it is not root.
USER 10001:10001
WORKDIR /data
VOLUME /data
ENV HUIZHI_CONFIG=/etc/huizhi/huizhi.toml \
    HUIZHI_HEALTH=http://127.0.0.1:8080/health/ready
# Callbacks, the API and the dashboard, a receiver's metrics.
EXPOSE 8080 8081 9108

# Ready means that a callback can be stored now. For the reconciler HUIZHI_HEALTH names its own port.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(os.environ['HUIZHI_HEALTH'], timeout=4)"]

CMD ["huizhi", "serve"]

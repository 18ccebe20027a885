# syntax=docker/dockerfile:1.7
# Lacewing on an NVIDIA GPU: training with the Triton kernels, and the server of models.
#   docker build -f infra/images/gpu.Dockerfile -t lacewing:gpu .
# The digest is the multi-platform index of the tag (amd64, arm64).
FROM python:3.11-slim-bookworm@sha256:b18992999dbe963a45a8a4da40ac2b1975be1a776d939d098c647482bcad5cba AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/lacewing
WORKDIR /src
COPY constraints.txt ./
# torch first and alone, so that no package that depends on it chooses another build.
# The CUDA libraries come as packages with torch; the host brings the driver and the NVIDIA container toolkit.
ARG TORCH_INDEX=https://pypi.org/simple
RUN /opt/lacewing/bin/pip install --extra-index-url "$TORCH_INDEX" -c constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY kernels kernels
COPY components components
COPY conf conf
COPY flows flows
RUN /opt/lacewing/bin/pip install --extra-index-url "$TORCH_INDEX" -c constraints.txt '.[s3,postgres,hub,sweep,peft]'

FROM python:3.11-slim-bookworm@sha256:b18992999dbe963a45a8a4da40ac2b1975be1a776d939d098c647482bcad5cba
# Triton compiles the launcher of each kernel with a C compiler, at the first use of the kernel.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 10001 lacewing \
    && useradd --uid 10001 --gid lacewing --no-create-home --home-dir /workspace --shell /usr/sbin/nologin lacewing \
    && install -d -o lacewing -g lacewing /workspace
COPY --from=packages /opt/lacewing /opt/lacewing
ENV PATH=/opt/lacewing/bin:$PATH \
    LACEWING_WORKSPACE=/workspace \
    HOME=/workspace \
    PYTHONUNBUFFERED=1 \
    DO_NOT_TRACK=true \
    MLFLOW_DISABLE_TELEMETRY=true \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    DVC_NO_ANALYTICS=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    TRITON_CACHE_DIR=/workspace/.triton \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /workspace
VOLUME /workspace
EXPOSE 8000
# Of the server of models, which is the default command. Compose and Kubernetes give the other services checks of their own.
HEALTHCHECK --interval=15s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
CMD ["lacewing", "serve", "model=champion", "host=0.0.0.0"]

# The image: mypt, torch and what they need at run time. Built and run by tests/cluster/test_image.py.
#
#   make image
#
# Which torch: docs/how-to/docker.md lists the flavours with the drivers that they need.
#
# Debian 12, and not CUDA's images: torch's wheels bring CUDA, cuDNN and NCCL, and the driver's libraries come from the
# host. Another base must have Python >= 3.11, and the same one as the builder, whose environment is copied. The digest
# is the one that other projects' files give for that tag; the tests build on a Debian of their own and do not pull it.
ARG BASE_IMAGE=docker.io/library/debian:bookworm-20260824-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171
ARG BUILDER_IMAGE=${BASE_IMAGE}

FROM ${BUILDER_IMAGE} AS builder
# Debian's packages are not pinned: a stable Debian changes only for the better, and forgets its earlier versions.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/mypt
WORKDIR /src
COPY constraints.txt ./
# torch first, by a specification of its own: whatever needs it later finds it installed.
ARG TORCH_SPEC=torch
ARG PIP_EXTRA_INDEX_URL
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/mypt/bin/pip install --no-compile -c constraints.txt "${TORCH_SPEC}"
# The dependencies before the code, so that a change of code rebuilds little and is pulled quickly.
COPY pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/mypt/bin/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; extras = project["optional-dependencies"]; print(*project["dependencies"], *extras["s3"], *extras["postgres"], sep="\n")' > requirements.txt \
 && /opt/mypt/bin/pip install --no-compile -c constraints.txt -r requirements.txt
# For a root that is read-only, and on all cores, as pip does not. It ends with 1 for a file in the syntax of a later Python.
RUN /opt/mypt/bin/python -m compileall -qq -j 0 /opt/mypt/lib || true
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/mypt/bin/pip wheel --no-deps -w /wheels .

FROM ${BASE_IMAGE}
# A compiler and Python's headers: Triton and Inductor compile while a run starts. libibverbs and librdmacm: InfiniBand.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      ca-certificates g++ ibverbs-providers libibverbs1 librdmacm1 python3-dev tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --non-unique --uid 1000 --gid 0 --home-dir /workspace --no-create-home --shell /bin/bash mypt \
 # Like /tmp: whatever uid a cluster starts the image with can write.
 && install -d -m 1777 /workspace /workspace/.cache /workspace/data /workspace/runs
COPY --from=builder /opt/mypt /opt/mypt
RUN --mount=type=bind,from=builder,source=/wheels,target=/wheels \
    /opt/mypt/bin/pip install --no-cache-dir --no-deps --no-index /wheels/*.whl

# USER and LOGNAME: some libraries ask for the user's name, and a uid that the image does not know has none.
ENV PATH=/opt/mypt/bin:$PATH \
    HOME=/workspace \
    USER=mypt \
    LOGNAME=mypt \
    XDG_CACHE_HOME=/workspace/.cache \
    XDG_CONFIG_HOME=/workspace/.cache/config \
    TORCHINDUCTOR_CACHE_DIR=/workspace/.cache/inductor \
    TRITON_CACHE_DIR=/workspace/.cache/triton \
    TORCH_EXTENSIONS_DIR=/workspace/.cache/torch_extensions \
    PYTHONUNBUFFERED=1 \
    PYTHONFAULTHANDLER=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NCCL_DEBUG=WARN \
    MLFLOW_DISABLE_TELEMETRY=true \
    TORCH_ELASTIC_SHUTDOWN_TIMEOUT=280 \
    PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1
WORKDIR /workspace
USER 1000:0

# Not tini -g: launcher and supervisor pass signals on, and a rank should get each of them once.
ENTRYPOINT ["tini", "--", "python", "-m", "mypt_dist.cli.container"]
CMD ["--help"]
# A run whose heartbeat is older than two minutes is dead. A container that trains nothing is never healthy.
HEALTHCHECK --interval=30s --timeout=20s --start-period=10m --retries=3 \
    CMD ["mypt", "runs", "alive", "runs"]

# Last, because it changes with every commit.
ARG REVISION=
LABEL org.opencontainers.image.title="mypt_dist" \
      org.opencontainers.image.description="Distributed GPT training: memory-mapped tokens in, verified checkpoints out." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="${REVISION}"
ENV MYPT_REVISION=${REVISION}

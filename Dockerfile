# syntax=docker/dockerfile:1
# CPU image:  docker build -t genarm:cpu .
# GPU image:  docker build --target gpu -t genarm:gpu .      (docker run --gpus all …)
# What runs in them, and how they are told what to serve, is in docs/operations.md.

FROM python:3.12.12-slim-bookworm AS python
ENV PATH=/opt/genarm/bin:$PATH PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# What the project needs, traces too, is installed before its sources are there, so that a change of these costs seconds.
FROM python AS build
WORKDIR /src
RUN python -m venv /opt/genarm
# Which wheels: pip takes those of CUDA where it looks first. For the smaller CPU build add the index that has it:
# --build-arg TORCH_VERSION=2.13.0+cpu --build-arg PIP_EXTRA_INDEX_URL=…
ARG TORCH_VERSION=2.13.0
ARG PIP_EXTRA_INDEX_URL
RUN pip install --no-cache-dir torch=="$TORCH_VERSION"
COPY pyproject.toml README.md ./
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        print(*project['dependencies'], *project['optional-dependencies']['otel'], sep='\n')" \
        > requirements.txt \
    && pip install --no-cache-dir --requirement requirements.txt
COPY arm_models arm_models
COPY server server
RUN pip install --no-cache-dir --no-deps .

# Everything that is written goes below /var/cache/genarm and /tmp: the rest may be read-only.
FROM python AS runtime
RUN groupadd --gid 10001 genarm \
    && useradd --uid 10001 --gid 10001 --home-dir /var/cache/genarm --no-create-home --shell /usr/sbin/nologin genarm \
    && install --directory --owner=10001 --group=10001 /var/cache/genarm
ENV HOME=/var/cache/genarm \
    HF_HOME=/var/cache/genarm/huggingface \
    TRITON_CACHE_DIR=/var/cache/genarm/triton \
    CUDA_CACHE_PATH=/var/cache/genarm/cuda
WORKDIR /var/cache/genarm
EXPOSE 8000
STOPSIGNAL SIGTERM
# Alive, not ready: whoever acts on an unhealthy container must not do so while models load or answers drain. Not by the proxy
# that Docker may put into the environment.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["genarm"]
# In a container loopback is nobody else's, so it listens on every address; it starts only with keys (--api-key-file) or when
# told that it needs none (--allow-anonymous).
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]

# Triton compiles the stubs that launch its kernels with the machine's C compiler.
FROM runtime AS gpu
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/genarm /opt/genarm
USER 10001:10001

FROM runtime AS cpu
COPY --from=build /opt/genarm /opt/genarm
USER 10001:10001

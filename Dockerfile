# syntax=docker/dockerfile:1
# CPU image:  docker build --target cpu -t genarm .
# GPU image:  docker build --target gpu -t genarm:gpu .   (run with --gpus all)

FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /opt/genarm
ENV PATH=/opt/genarm/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml README.md ./
COPY server server
COPY arm_models arm_models

FROM build AS build-cpu
# Where the CPU wheel comes from is the builder's choice: --build-arg PIP_EXTRA_INDEX_URL=… with TORCH=torch==2.13.0+cpu
ARG TORCH=torch==2.13.0
ARG PIP_EXTRA_INDEX_URL
RUN pip install "$TORCH" && pip install .

FROM build AS build-gpu
ARG TORCH=torch>=2.11
RUN pip install "$TORCH" && pip install .

FROM python:3.12-slim AS runtime
RUN useradd --create-home --uid 10001 genarm
ENV PATH=/opt/genarm/bin:$PATH PYTHONUNBUFFERED=1 HF_HOME=/home/genarm/.cache/huggingface
USER genarm
WORKDIR /home/genarm
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=2)"]
ENTRYPOINT ["genarm"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]

FROM runtime AS gpu
COPY --from=build-gpu /opt/genarm /opt/genarm

FROM runtime AS cpu
COPY --from=build-cpu /opt/genarm /opt/genarm

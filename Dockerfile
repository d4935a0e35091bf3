# Three images from one file:
#   docker build --target gpu -t steer-server:gpu .         CUDA, on vLLM's own image
#   docker build --target cpu -t steer-server:cpu .         no GPU needed; the built-in model is inside
#   docker build --target router -t steer-server:router .   vllm-router, before several replicas

FROM vllm/vllm-openai:v0.32.0 AS gpu
WORKDIR /opt/steer-server
COPY pyproject.toml README.md LICENSE ./
COPY steer_server steer_server
# The image has vLLM and its torch, and nothing may replace them: what is there is a constraint, so a dependency
# that would need another version fails the build.
RUN python3 -m pip freeze | grep == > /tmp/image.txt \
    && python3 -m pip install --no-cache-dir --no-build-isolation --constraint /tmp/image.txt .
COPY adapters /adapters
# A number of its own, which deploy/kubernetes names. The folder is there so that a volume on it is the user's.
RUN useradd --create-home --uid 10001 steer && mkdir -p /var/lib/steer-server/data && chown -R steer /var/lib/steer-server
USER steer
# What takes long to make or to fetch is below the folder that a volume belongs on.
ENV STEER_ADAPTERS=/adapters STEER_DATA=/var/lib/steer-server/data STEER_CACHE=/var/lib/steer-server/data/cache \
    HF_HOME=/var/lib/steer-server/data/huggingface VLLM_CACHE_ROOT=/var/lib/steer-server/data/vllm
EXPOSE 8000
HEALTHCHECK --start-period=10m CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/ready')"]
ENTRYPOINT ["steer-server", "serve", "--host", "0.0.0.0"]

FROM python:3.11-slim-bookworm AS router
RUN python -m pip install --no-cache-dir vllm-router==0.1.17 && useradd --uid 10001 steer
USER steer
EXPOSE 30000 29000
ENTRYPOINT ["vllm-router", "--host", "0.0.0.0"]

FROM python:3.11-slim-bookworm AS cpu
RUN apt-get update && apt-get install -y --no-install-recommends g++ libnuma1 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/steer-server
COPY pyproject.toml README.md LICENSE ./
COPY steer_server steer_server
COPY deploy/install.sh deploy/install.sh
RUN EXTRA=cpu EXTRAS= VENV=/opt/venv bash deploy/install.sh && rm -rf /root/.cache
# The built-in model is in the image, beside the folder that a volume belongs on.
ENV PATH=/opt/venv/bin:$PATH \
    STEER_ADAPTERS=/adapters STEER_DATA=/var/lib/steer-server/data STEER_CACHE=/var/lib/steer-server \
    HF_HOME=/var/lib/steer-server/data/huggingface VLLM_CACHE_ROOT=/var/lib/steer-server/data/vllm
RUN useradd --create-home --uid 10001 steer && mkdir -p /var/lib/steer-server/data && chown -R steer /var/lib/steer-server
USER steer
RUN steer-server model fetch
COPY adapters /adapters
EXPOSE 8000
HEALTHCHECK --start-period=10m CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/ready')"]
ENTRYPOINT ["steer-server", "serve", "--host", "0.0.0.0"]

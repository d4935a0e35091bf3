# Two images from one file:
#   docker build --target gpu -t steer-server:gpu .     CUDA, on vLLM's own image
#   docker build --target cpu -t steer-server:cpu .     no GPU needed; the built-in model is inside

FROM vllm/vllm-openai:v0.32.0 AS gpu
WORKDIR /opt/steer-server
COPY pyproject.toml README.md LICENSE ./
COPY steer_server steer_server
# The image has vLLM and its torch; nothing may replace them.
RUN python3 -m pip install --no-cache-dir --no-build-isolation --no-deps . \
    && python3 -m pip install --no-cache-dir aiosqlite alembic gguf limits model-signing obstore "psycopg[binary]" \
       pydantic-settings pyopenssl "sqlalchemy[asyncio]" typer
COPY adapters /adapters
RUN useradd --create-home steer && mkdir -p /var/lib/steer-server && chown steer /var/lib/steer-server
USER steer
ENV STEER_ADAPTERS=/adapters STEER_DATA=/var/lib/steer-server/data
EXPOSE 8000
HEALTHCHECK --start-period=10m CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/ready')"]
ENTRYPOINT ["steer-server", "serve", "--host", "0.0.0.0"]

FROM python:3.11-slim-bookworm AS cpu
RUN apt-get update && apt-get install -y --no-install-recommends g++ libnuma1 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/steer-server
COPY pyproject.toml README.md LICENSE ./
COPY steer_server steer_server
COPY deploy/install.sh deploy/install.sh
RUN EXTRA=cpu EXTRAS= VENV=/opt/venv bash deploy/install.sh && rm -rf /root/.cache
ENV PATH=/opt/venv/bin:$PATH STEER_CACHE=/var/lib/steer-server STEER_DATA=/var/lib/steer-server/data STEER_ADAPTERS=/adapters
RUN useradd --create-home steer && mkdir -p /var/lib/steer-server && chown steer /var/lib/steer-server
USER steer
RUN steer-server model fetch
COPY adapters /adapters
EXPOSE 8000
HEALTHCHECK --start-period=10m CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/ready')"]
ENTRYPOINT ["steer-server", "serve", "--host", "0.0.0.0"]

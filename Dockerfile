# etl in a container: docs/operations.md says how to run it.
FROM python:3.11-slim

# Exactly what requirements.lock says, as `make install` does; before the code, so that a change of it reuses this layer.
WORKDIR /src
COPY requirements.lock ./
RUN python -m pip install --no-cache-dir --quiet --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY etl ./etl
RUN python -m pip install --no-cache-dir --quiet --no-build-isolation --no-deps .

# By number, so that Kubernetes can see that it is not root. /state outlives the container, too: it holds bans and budgets.
RUN groupadd --gid 10001 etl && useradd --uid 10001 --gid 10001 --create-home etl && \
    mkdir /lake /state && chown 10001:10001 /lake /state
USER 10001:10001
ENV ETL_LAKE=/lake ETL_STATE_DIR=/state ETL_LOG_FORMAT=json
VOLUME ["/lake", "/state"]
# A universe is mounted at /home/etl/config/universe.toml.
WORKDIR /home/etl
ENTRYPOINT ["etl"]
CMD ["--help"]

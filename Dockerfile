# syntax=docker/dockerfile:1

# mopt in a slim image, without root.
#
#   docker build --tag mopt .
#   docker run --rm --network none --volume "$PWD:/work" --user "$(id -u):$(id -g)" mopt build model.onnx --data samples.npz
#
# EXTRAS are those of the package: openvino, sizing, huggingface, boosting, bench, ... with commas between.

ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS wheel
# Times inside the wheel; unset, the build backend takes a fixed date of its own.
ARG SOURCE_DATE_EPOCH
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY mopt ./mopt
RUN python -m pip wheel --no-cache-dir --disable-pip-version-check --no-deps --wheel-dir /wheels .

FROM python:${PYTHON_VERSION}-slim AS install
ARG EXTRAS=openvino
COPY constraints.txt /constraints.txt
COPY --from=wheel /wheels /wheels
RUN python -m venv /opt/mopt \
 && set -- /wheels/mopt-*.whl \
 && /opt/mopt/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
      --constraint /constraints.txt "mopt${EXTRAS:+[${EXTRAS}]} @ file://$1"

FROM python:${PYTHON_VERSION}-slim
ARG VERSION=0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="mopt" \
      org.opencontainers.image.description="Ahead-of-time model compiler and optimiser" \
      org.opencontainers.image.source="https://github.com/mopt/mopt" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
# LightGBM needs the OpenMP of the system. The folders are for whoever the container runs as, see --user above.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --create-home mopt \
 && install --directory --mode 1777 /work /cache
COPY --from=install /opt/mopt /opt/mopt
ENV PATH=/opt/mopt/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    MOPT_CACHE=/cache \
    XDG_CACHE_HOME=/cache \
    MPLCONFIGDIR=/cache/matplotlib
VOLUME ["/cache"]
USER 10001:10001
WORKDIR /work
ENTRYPOINT ["mopt"]
CMD ["--help"]

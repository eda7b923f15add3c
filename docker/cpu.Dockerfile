# fpm on CPUs. Build it in the root of the repository:
#   docker build --file docker/cpu.Dockerfile --tag fpm-depth:cpu .
#   docker run --rm --volume "$PWD/runs:/home/fpm/runs" fpm-depth:cpu pretrain --preset CPM-X-S --proxy
# `--build-arg PIP_EXTRA_INDEX_URL=...` names an index with torch's build for CPUs, which is a tenth of the size.
FROM python:3.11-slim-bookworm

ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

# GCC compiles the CPU operators. Debian removes old versions, so that a pinned one cannot be installed later.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/fpm
COPY requirements.lock pyproject.toml README.md LICENSE ./
COPY fpm_cli fpm_cli
COPY presets presets
COPY kernels kernels
RUN pip install --no-cache-dir --constraint requirements.lock '.[fast,transformers]' \
    && useradd --create-home --uid 10001 fpm
USER 10001
WORKDIR /home/fpm
RUN fpm kernels build

ENTRYPOINT ["fpm"]
CMD ["--help"]

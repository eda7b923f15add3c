# fpm on NVIDIA GPUs. Build it in the root of the repository; no GPU is needed for that:
#   docker build --file docker/cuda.Dockerfile --tag fpm-depth:cuda .
#   docker run --rm --gpus all --ipc host --volume "$PWD/runs:/home/fpm/runs" fpm-depth:cuda doctor
# The processes of a run exchange data in shared memory: `--ipc host` gives them more than Docker's 64 MB.
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04

ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

# GCC and nvcc compile the operators. Ubuntu removes old versions, so that a pinned one cannot be installed later.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/opt/venv/bin:$PATH
RUN python3 -m venv /opt/venv

WORKDIR /opt/fpm
COPY requirements.lock pyproject.toml README.md LICENSE ./
COPY fpm_cli fpm_cli
COPY presets presets
COPY kernels kernels
RUN pip install --no-cache-dir --constraint requirements.lock '.[fast,transformers]' \
    && useradd --create-home --uid 10001 fpm
USER 10001
WORKDIR /home/fpm
RUN fpm kernels build --cuda

ENTRYPOINT ["fpm"]
CMD ["--help"]

# docker build --tag samsum-lora .                             PyTorch's CPU build
# docker build --tag samsum-lora --build-arg DEVICE=cuda .     for an NVIDIA GPU: run with --gpus all
# docker run --rm -it -v "$PWD:/home/app/samsum-lora" samsum-lora
# Both use the same base image: PyTorch's wheels contain CUDA, and the host has the driver.
FROM python:3.11-slim-bookworm

# git is for the commit in scores.json; on a GPU, Triton compiles its launchers with gcc.
# No pinned versions: Debian removes a version from its mirrors when the next fix is out.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc git libc6-dev make \
    && rm -rf /var/lib/apt/lists/*

# as root, it would create files owned by root in mounted folders
ARG UID=1000
RUN useradd --create-home --non-unique --uid "$UID" app \
    && install -d -o app -g app /home/app/samsum-lora
USER app
WORKDIR /home/app/samsum-lora

# outside the repository, since a dev container mounts the checkout over it
ENV VENV=/home/app/venv
ENV PATH=$VENV/bin:$PATH AXOLOTL_DO_NOT_TRACK=1

COPY --chown=app:app . .
ARG DEVICE=cpu
RUN --mount=type=cache,target=/tmp/cache,mode=0777 \
    DEVICE="$DEVICE" PIP_CACHE_DIR=/tmp/cache/pip UV_CACHE_DIR=/tmp/cache/uv \
    sh scripts/setup.sh "$VENV" && touch "$VENV/.ready"

CMD ["make", "demo"]

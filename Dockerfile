# docker build --tag samsum-lora .                             PyTorch's CPU build
# docker build --tag samsum-lora --build-arg DEVICE=cuda .     for an NVIDIA GPU: run with --gpus all
# docker run --rm -it -v "$PWD:/home/app/samsum-lora" samsum-lora
# The base image is the same for both: PyTorch's wheels bring CUDA, the host brings the driver.
FROM python:3.11-slim-bookworm

# git names the commit in scores.json; Triton compiles its launchers with gcc on a GPU.
# No versions: Debian removes one from its mirrors when the next fix is out.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc git libc6-dev make \
    && rm -rf /var/lib/apt/lists/*

# as root it would write root's files into the folders that are mounted
ARG UID=1000
RUN useradd --create-home --uid "$UID" app \
    && install -d -o app -g app /home/app/samsum-lora
USER app
WORKDIR /home/app/samsum-lora

# outside the repository: a dev container mounts the checkout over it
ENV VENV=/home/app/venv
ENV PATH=$VENV/bin:$PATH AXOLOTL_DO_NOT_TRACK=1

COPY --chown=app:app . .
ARG DEVICE=cpu
RUN --mount=type=cache,target=/tmp/cache,mode=0777 \
    DEVICE="$DEVICE" PIP_CACHE_DIR=/tmp/cache/pip UV_CACHE_DIR=/tmp/cache/uv \
    sh scripts/setup.sh "$VENV" && touch "$VENV/.ready"

CMD ["make", "demo"]

# docker build -t assl-kit .                       CPU: make run is the default command, JupyterLab is "make lab"
# docker build -t assl-kit:cuda --target cuda .    torch for CUDA, bitsandbytes; needs --gpus all
# mkdir -p runs && docker run --rm -v "$PWD/runs:/home/assl/assl-kit/runs" assl-kit
FROM python:3.12-slim AS checkout
RUN apt-get update && apt-get install -y --no-install-recommends make git fonts-noto-cjk \
    && rm -rf /var/lib/apt/lists/* && useradd --create-home assl
USER assl
WORKDIR /home/assl/assl-kit
ENV PATH="/home/assl/assl-kit/.venv/bin:$PATH"
COPY --chown=assl . .

FROM checkout AS cuda
RUN make install && .venv/bin/python -m pip install --no-cache-dir -q -c .ci/constraints.txt -e ".[app,gpu]"
CMD ["make", "run"]

# last, so that it is what is built when no target is named
FROM checkout AS cpu
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN make install && .venv/bin/python -m pip install --no-cache-dir -q -c .ci/constraints.txt -e ".[app]"
CMD ["make", "run"]

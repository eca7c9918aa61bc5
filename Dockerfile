# amsam on an NVIDIA GPU, for machines without a network at run time.
#
#   docker build -t amsam .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD":/work amsam segment scan.nii.gz -o mask.nii.gz
#
# Checkpoints other than the built-in one go into the volume once, from a machine with a network:
#   docker run --rm -e AMSAM_OFFLINE=0 -v amsam-weights:/weights amsam models pull sam2.1-tiny
#
# The wheels of torch bring the CUDA libraries, so the base image only has to fit the driver. For an older driver give
# an older image and the package index with torch for it: --build-arg CUDA_IMAGE=… --build-arg PIP_EXTRA_INDEX_URL=…
ARG CUDA_IMAGE=nvidia/cuda:13.0.1-base-ubuntu24.04
FROM ${CUDA_IMAGE}

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_NO_CACHE_DIR=1
ENV PATH=/opt/amsam/bin:$PATH
RUN python3 -m venv /opt/amsam

# torch first: sam2 is a source distribution that imports torch while it is built, and must build against this very one.
RUN pip install "torch>=2.6" "torchvision>=0.21" "setuptools>=77"
# Without its CUDA extension, which only fills holes in masks and would need a compiler here.
RUN SAM2_BUILD_CUDA=0 pip install --no-build-isolation "sam2>=1.1.0"

COPY LICENSE README.md pyproject.toml /opt/src/
COPY amsam_cli /opt/src/amsam_cli
COPY sample_data /opt/src/sample_data
RUN pip install /opt/src

# Any --user may run it: a home, weights and a working folder that everyone may write, and a name for users without one.
RUN mkdir --mode 1777 /home/amsam /weights /work
ENV HOME=/home/amsam \
    USER=amsam \
    AMSAM_HOME=/weights \
    AMSAM_OFFLINE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
VOLUME /weights
WORKDIR /work
USER 1000:1000
ENTRYPOINT ["amsam"]
CMD ["--help"]

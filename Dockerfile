# The image of ddae-app.
#
#   docker build -t ddae-app .
#   docker build -t ddae-app:cpu --build-arg TORCH_INDEX_URL=URL .
#
# Arguments:
#   BASE_IMAGE       any image with Python 3.11 or newer as python3, and its venv module; one that
#                    is not of Debian has to have the program strip
#   TORCH_INDEX_URL  where torch comes from; empty takes what pip takes by default, which on
#                    x86-64 is the CUDA build. pytorch.org names the address of the CPU builds.
#   PIP_FIND_LINKS   a folder or page of wheels that go before all others
#   FETCH            what is downloaded into the image; empty leaves it out, to be mounted at
#                    /opt/resources/templateflow and /opt/resources/hd-bet

ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG TORCH_INDEX_URL=
ARG PIP_FIND_LINKS=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/ddae-app/bin:$PATH
RUN python3 -m venv /opt/ddae-app
WORKDIR /src
# What changes least comes first, so that a new version of ddae-app costs one small layer.
COPY constraints.txt .
RUN pip install -c constraints.txt ${TORCH_INDEX_URL:+--index-url} ${TORCH_INDEX_URL} torch
COPY pyproject.toml README.md LICENSE ./
RUN python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > requirements.txt \
    && pip install -c constraints.txt -r requirements.txt
RUN command -v strip || (apt-get update && apt-get install -y --no-install-recommends binutils)
COPY bids_validator_config bids_validator_config
COPY ddae_app ddae_app
RUN pip install -c constraints.txt --no-deps .
# What nothing loads; the last stage copies what is left.
COPY scripts/slim_image.py .
RUN python3 slim_image.py

FROM build AS resources
ARG FETCH="templates spheres hd-bet"
ENV TEMPLATEFLOW_HOME=/opt/resources/templateflow HDBET_WEIGHTS=/opt/resources/hd-bet
RUN mkdir -p $TEMPLATEFLOW_HOME $HDBET_WEIGHTS \
    && for what in $FETCH; do ddae-app-fetch $what || exit 1; done \
    && chmod -R a+rX /opt/resources

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=
COPY --from=build /opt/ddae-app /opt/ddae-app
COPY --from=resources /opt/resources /opt/resources
# One thread a process unless ddae-app decides otherwise; nothing is written to a home directory,
# which an arbitrary user does not have; bytecode cannot be written to a read-only image. The tag
# goes into the description of outputs.
ENV PATH=/opt/ddae-app/bin:$PATH \
    TEMPLATEFLOW_HOME=/opt/resources/templateflow \
    TEMPLATEFLOW_AUTOUPDATE=off \
    HDBET_WEIGHTS=/opt/resources/hd-bet \
    OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 \
    HOME=/tmp DENO_DIR=/tmp/deno \
    DDAE_CONTAINER_TAG=ddae-app:${VERSION} \
    PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
LABEL org.opencontainers.image.title="ddae-app" \
      org.opencontainers.image.description="Harmonization of T1-weighted brain MRI across sites, as a BIDS-App" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /tmp
ENTRYPOINT ["/opt/ddae-app/bin/ddae-app"]

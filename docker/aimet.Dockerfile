# Quantization; hexpath-models comes along for its tasks. Context: what docker/images.py puts together.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS install
COPY requirements.txt /install/
RUN python3 -m venv /opt/hexpath \
 && /opt/hexpath/bin/pip install --no-cache-dir --require-hashes --requirement /install/requirements.txt
COPY wheels/ /install/wheels/
RUN /opt/hexpath/bin/pip install --no-cache-dir --no-index --no-deps /install/wheels/*.whl \
 && /opt/hexpath/bin/pip check \
 && /opt/hexpath/bin/pip uninstall --yes --quiet pip

FROM ${BASE}
# OpenCV, which Ultralytics reads images with, wants libGL and GLib.
RUN apt-get update --quiet \
 && apt-get install --yes --quiet --no-install-recommends libgl1 libglib2.0-0 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 10001 hexpath
COPY --from=install /opt/hexpath /opt/hexpath
COPY smoke.py /opt/hexpath/smoke.py
ENV PATH=/opt/hexpath/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 YOLO_OFFLINE=true WANDB_MODE=offline
USER hexpath
WORKDIR /home/hexpath
CMD ["hexpath-quant", "--help"]

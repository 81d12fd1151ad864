# Datasets, training and export. Context: what docker/images.py puts together.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS install
COPY requirements.txt /install/
RUN python3 -m venv /opt/hexpath \
 && /opt/hexpath/bin/pip install --no-cache-dir --require-hashes --requirement /install/requirements.txt

# Our wheels, checked against what they need, and once more by themselves: the small layer on top of the large one.
FROM install AS own
COPY wheels/ /install/wheels/
RUN /opt/hexpath/bin/pip install --no-cache-dir --no-index --no-deps /install/wheels/*.whl \
 && /opt/hexpath/bin/pip check \
 && /opt/hexpath/bin/pip install --no-cache-dir --no-index --no-deps --ignore-installed --root /own /install/wheels/*.whl
COPY smoke.py /own/opt/hexpath/smoke.py

FROM install AS requirements
RUN /opt/hexpath/bin/pip uninstall --yes --quiet pip

FROM ${BASE}
# OpenCV, which Ultralytics reads images with, wants libGL and GLib.
RUN apt-get update --quiet \
 && apt-get install --yes --quiet --no-install-recommends libgl1 libglib2.0-0 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 10001 hexpath
COPY --from=requirements /opt/hexpath /opt/hexpath
COPY --from=own /own/opt/hexpath /opt/hexpath
ENV PATH=/opt/hexpath/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 YOLO_OFFLINE=true WANDB_MODE=offline
USER hexpath
WORKDIR /home/hexpath
CMD ["hexpath-models", "--help"]

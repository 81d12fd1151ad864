# The Hexagon compiler, emulator, evaluation and report. No torch. Context: what docker/images.py puts together.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS install
COPY requirements.txt /install/
RUN python3 -m venv /opt/hexpath \
 && /opt/hexpath/bin/pip install --no-cache-dir --no-compile --require-hashes --requirement /install/requirements.txt
COPY wheels/ /install/wheels/
# Out go pip, and of Qualcomm's wheel what serves other chips: the GPU backend, the language-model runtime,
# and a second copy of the HTP compiler that only a device's process loads.
RUN /opt/hexpath/bin/pip install --no-cache-dir --no-compile --no-index --no-deps /install/wheels/*.whl \
 && /opt/hexpath/bin/pip check \
 && /opt/hexpath/bin/pip uninstall --yes --quiet setuptools pip \
 && cd /opt/hexpath/lib/python3.11/site-packages \
 && rm -f onnxruntime_qnn/libQnnGpu.so onnxruntime_qnn/libGenie.so onnxruntime_qnn/libHtpPrepare.so \
 && find . -type d \( -path './onnx/backend/test' -o -path './numpy/*/tests' -o -path './sympy/*/tests' \) -prune \
    -exec rm -rf {} +

# Qualcomm's full SDK, when its archive is given: a file of the context, or a URL, and its SHA-256.
FROM ${BASE} AS qairt
ARG QAIRT=
ARG QAIRT_SHA256=
COPY qairt/ /install/qairt/
RUN python3 /install/qairt/unpack.py "${QAIRT}" "${QAIRT_SHA256}" /opt/qairt

# The base with what Qualcomm's libraries load, and without what nothing here uses: the one flat layer below
# stays small.
FROM ${BASE} AS system
RUN apt-get update --quiet \
 && apt-get install --yes --quiet --no-install-recommends libatomic1 libstdc++6 \
 && dpkg-query --show --showformat '${Package}\n' 'libllvm*' 'libgl*-mesa*' 'libglx*' 'libgl1' 'libglapi*' \
      'libicu*' 'libz3*' 'libglib2*' 'libx11*' 'libxcb*' 'libdrm*' 'python3-pip*' 'python3-setuptools*' 'python3-wheel*' \
      2>/dev/null | xargs --no-run-if-empty apt-get purge --yes --quiet --auto-remove \
 && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* /usr/share/doc/* /usr/share/man/* /usr/share/locale/* \
      /usr/local/lib/python3*/ensurepip /usr/local/lib/python3*/site-packages/pip* \
      /usr/local/lib/python3*/site-packages/setuptools* /usr/local/bin/pip* \
 && useradd --create-home --uid 10001 hexpath
COPY --from=install /opt/hexpath /opt/hexpath
COPY --from=qairt /opt/qairt /opt/qairt
COPY smoke.py /opt/hexpath/smoke.py

FROM scratch
COPY --from=system / /
ENV PATH=/opt/hexpath/bin:/opt/qairt/tools:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 WANDB_MODE=offline QAIRT_SDK_ROOT=/opt/qairt
USER hexpath
WORKDIR /home/hexpath
CMD ["hexpath-deploy", "--help"]

#!/bin/sh
# Install sinkd into .venv beside this file: the same as `make install`.
set -eu
cd "$(dirname "$0")"
exec make --no-print-directory install

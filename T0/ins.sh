#!/bin/sh
# Install sinkd into .venv beside the folder of this file, with what T0, T5 and GPT models need, and fetch the prompts
# of promptsource: the same as `make generative`.
set -eu
cd "$(dirname "$0")/.."
exec make --no-print-directory generative

#!/usr/bin/env bash
# Tests and benchmarks on a GPU, in at most eight minutes, on a machine with PyTorch, Triton and transformers and without
# a network. Each step has its own time limit, and its result is written as soon as it is there.
#
#   benchmarks/gpu.sh [--wheels FOLDER] [--out FOLDER] [--rehearse]
#
# --wheels: wheels of packages that the machine lacks: `datasets`, `dill`, `multiprocess`, POT, geoopt. What cannot run
#           for want of one is said.
# --out: where logs, JSON and the table gpu.md go (gpu-results)
# --rehearse: all of it, small, on a CPU; figures say nothing about speed
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} wheels="" out=gpu-results rehearse="" # PYTHON names another Python
while [ $# -gt 0 ]; do
  case $1 in
    --wheels) wheels=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --rehearse) rehearse=--rehearse; shift ;;
    *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0" >&2; exit 2 ;;
  esac
done
mkdir -p "$out"
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
for wheel in "$wheels"/*.whl; do
  [ -f "$wheel" ] && "$python" -m zipfile -e "$wheel" "$site"
done
export PYTHONPATH="src:.:tests:$site" PYTHONUNBUFFERED=1
for package in torch triton transformers datasets ot geoopt; do
  "$python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$package') is None)" \
    || echo "MISSING $package: what needs it is skipped" | tee -a "$out/missing.txt"
done
{
  echo "# On a GPU"; echo
  "$python" -c 'import platform, torch, transformers
print(torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: a rehearsal on a CPU", end=", ")
print(f"CUDA {torch.version.cuda}, PyTorch {torch.__version__}, transformers {transformers.__version__}", end=", ")
print(f"Python {platform.python_version()}")'
} >"$out/gpu.md"

status=0
step() { # name, seconds, command...
  local name=$1 limit=$2 began=$SECONDS code=0
  shift 2
  timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1 || code=$?
  [ "$code" -eq 0 ] || status=1
  {
    echo; echo "## $name"; echo; echo "\`$*\`: $((SECONDS - began)) s, exit status $code"; echo
    grep '^|' "$out/$name.log" || tail -n 3 "$out/$name.log"
    grep '^SKIPPED' "$out/$name.log"
  } >>"$out/gpu.md"
  echo "$name: $((SECONDS - began)) s, exit status $code"
}

device=cuda
if [ -n "$rehearse" ]; then device=cpu; fi
tests=(tests/transport/test_triton.py tests/losses/test_triton_kernels.py tests/losses/test_cuda.py)
"$python" -c 'import datasets' 2>/dev/null && tests+=(tests/training/test_gpu.py)
collect=()
if [ -n "$rehearse" ]; then collect=(--collect-only); fi # the kernels' tests run in `make test`, by the interpreter
step tests 120 "$python" -m pytest -q -p no:cacheprovider -n "${WORKERS:-8}" -m gpu "${collect[@]}" "${tests[@]}"
step kernels 120 "$python" -m benchmarks.kernels --device $device --seconds 0.5 $rehearse --json "$out/kernels.json"
step step 120 "$python" -m benchmarks.step --device $device $rehearse --json "$out/step.json"
sizes=(--rounds 5)
if [ -n "$rehearse" ]; then sizes=(--rounds 1 --sizes 1); fi
step generative 60 "$python" -m benchmarks.generative --device $device "${sizes[@]}" --out "$out/generative.json"
step features 60 "$python" -m benchmarks.features --device $device $rehearse --json "$out/features.json"
cat "$out/gpu.md"
exit "$status"

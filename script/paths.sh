# Read by finetune.sh and distill.sh: go to the repository's root, taking along folders named from where the user stands.
absolute() {
  if [ -d "$1" ]; then (cd "$1" && pwd); else printf '%s\n' "$1"; fi
}
TEACHER_PATH=$(absolute "${TEACHER_PATH:-}")
STUDENT_PATH=$(absolute "${STUDENT_PATH:-}")
DATA_DIR=$(absolute "${DATA_DIR:-}")
cd "$(dirname "$0")/.."
DATA_DIR=${DATA_DIR:-./datas/glue}

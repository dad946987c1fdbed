#!/bin/sh
# Fine-tune a teacher on a GLUE task: sh script/finetune.sh <task> [flags of main_glue.py]
#   TEACHER_PATH   the pretrained model to fine-tune: a folder, or a name on the hub
#   DATA_DIR       the folder of the tasks' folders (default: ./datas/glue)
# Batch size, epochs, learning rate and seed are those of recipes/glue/<task>-teacher.yaml.
# The teacher lands in experiments/exp_distill_<task>/teacher, where script/student looks for it.
set -eu
task=${1:?name a task, as in cola}
shift
if [ -z "${TEACHER_PATH:-}" ]; then
  echo "TEACHER_PATH is not set; give the pretrained model to fine-tune, as in TEACHER_PATH=models/bert sh script/teacher/$task.sh" >&2
  exit 2
fi
. "$(dirname "$0")/paths.sh"
exec python3 main_glue.py --do_train --do_eval --do_lower_case --task_name "$task" \
  --model_path "$TEACHER_PATH" --data_dir "$DATA_DIR" "$@"

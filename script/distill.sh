#!/bin/sh
# Distil a student on a GLUE task: sh script/distill.sh <task> [flags of main_glue_distill.py]
#   STUDENT_PATH   the pretrained student: a folder, or a name on the hub
#   TEACHER_PATH   the fine-tuned teacher (default: experiments/exp_distill_<task>/teacher, what script/teacher leaves)
#   DATA_DIR       the folder of the tasks' folders (default: ./datas/glue)
# Objective, batch size, epochs, learning rate and seed are those of recipes/glue/<task>-student.yaml.
# The student lands in experiments/exp_distill_<task>/student.
set -eu
task=${1:?name a task, as in cola}
shift
if [ -z "${STUDENT_PATH:-}" ]; then
  echo "STUDENT_PATH is not set; give the pretrained student, as in STUDENT_PATH=models/small-bert sh script/student/$task.sh" >&2
  exit 2
fi
. "$(dirname "$0")/paths.sh"
exec python3 main_glue_distill.py --do_train --do_eval --task_name "$task" \
  --teacher_path "${TEACHER_PATH:-experiments/exp_distill_$task/teacher}" --student_path "$STUDENT_PATH" \
  --data_dir "$DATA_DIR" "$@"

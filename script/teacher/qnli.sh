#!/bin/sh
# QNLI's teacher: TEACHER_PATH=<pretrained model> sh script/teacher/qnli.sh [more flags]
exec sh "$(dirname "$0")/../finetune.sh" qnli "$@"

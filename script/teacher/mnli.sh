#!/bin/sh
# MNLI's teacher: TEACHER_PATH=<pretrained model> sh script/teacher/mnli.sh [more flags]
exec sh "$(dirname "$0")/../finetune.sh" mnli "$@"

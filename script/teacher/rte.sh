#!/bin/sh
# RTE's teacher: TEACHER_PATH=<pretrained model> sh script/teacher/rte.sh [more flags]
exec sh "$(dirname "$0")/../finetune.sh" rte "$@"

#!/bin/sh
# MRPC's teacher: TEACHER_PATH=<pretrained model> sh script/teacher/mrpc.sh [more flags]
exec sh "$(dirname "$0")/../finetune.sh" mrpc "$@"

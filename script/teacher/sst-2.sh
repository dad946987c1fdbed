#!/bin/sh
# SST-2's teacher: TEACHER_PATH=<pretrained model> sh script/teacher/sst-2.sh [more flags]
exec sh "$(dirname "$0")/../finetune.sh" sst-2 "$@"

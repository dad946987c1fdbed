#!/bin/sh
# QQP's teacher: TEACHER_PATH=<pretrained model> sh script/teacher/qqp.sh [more flags]
exec sh "$(dirname "$0")/../finetune.sh" qqp "$@"

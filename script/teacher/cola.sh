#!/bin/sh
# CoLA's teacher: TEACHER_PATH=<pretrained model> sh script/teacher/cola.sh [more flags]
exec sh "$(dirname "$0")/../finetune.sh" cola "$@"

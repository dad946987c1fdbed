#!/bin/sh
# STS-B's teacher (ours: none is published): TEACHER_PATH=<pretrained model> sh script/teacher/sts-b.sh [more flags]
exec sh "$(dirname "$0")/../finetune.sh" sts-b "$@"

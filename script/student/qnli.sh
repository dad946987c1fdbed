#!/bin/sh
# QNLI's student: STUDENT_PATH=<pretrained model> sh script/student/qnli.sh [more flags]
exec sh "$(dirname "$0")/../distill.sh" qnli "$@"

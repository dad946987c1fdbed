#!/bin/sh
# RTE's student: STUDENT_PATH=<pretrained model> sh script/student/rte.sh [more flags]
exec sh "$(dirname "$0")/../distill.sh" rte "$@"

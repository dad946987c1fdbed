#!/bin/sh
# MNLI's student: STUDENT_PATH=<pretrained model> sh script/student/mnli.sh [more flags]
exec sh "$(dirname "$0")/../distill.sh" mnli "$@"

#!/bin/sh
# QQP's student: STUDENT_PATH=<pretrained model> sh script/student/qqp.sh [more flags]
exec sh "$(dirname "$0")/../distill.sh" qqp "$@"

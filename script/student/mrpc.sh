#!/bin/sh
# MRPC's student: STUDENT_PATH=<pretrained model> sh script/student/mrpc.sh [more flags]
exec sh "$(dirname "$0")/../distill.sh" mrpc "$@"

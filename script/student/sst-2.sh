#!/bin/sh
# SST-2's student: STUDENT_PATH=<pretrained model> sh script/student/sst-2.sh [more flags]
exec sh "$(dirname "$0")/../distill.sh" sst-2 "$@"

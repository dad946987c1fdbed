#!/bin/sh
# STS-B's student (ours: none is published): STUDENT_PATH=<pretrained model> sh script/student/sts-b.sh [more flags]
exec sh "$(dirname "$0")/../distill.sh" sts-b "$@"

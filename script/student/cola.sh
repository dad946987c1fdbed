#!/bin/sh
# CoLA's student: STUDENT_PATH=<pretrained model> sh script/student/cola.sh [more flags]
exec sh "$(dirname "$0")/../distill.sh" cola "$@"
